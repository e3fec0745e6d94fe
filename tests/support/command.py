"""Runs commands of llamakit-proxy as a shell would see them."""

from dataclasses import dataclass
from typing import Protocol

import pytest

from llamakit_proxy.cli import main


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str


class Command(Protocol):
    def __call__(self, *arguments: str) -> Result: ...


def run_command(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> Result:
    """Exit code and output of one command, run in this process."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)
