"""Looks for what could go wrong on this machine: one line a check, and what to do about it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamakit.models_cli import Commands, add_model_arguments

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; the remedy is empty when all is well."""

    level: Level
    subject: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Where:
    """The places that the checks look at."""

    models: Path
    routes: Path
    models_dir: Path
    state_dir: Path
    secrets_dir: Path = Path("data/secrets")


Check = Callable[[Where], Iterator[Finding]]


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the kit's command line."""
    doctor = commands.add_parser("doctor", help="look for what could go wrong on this machine")
    add_model_arguments(doctor)
    doctor.add_argument("--routes", type=Path, default=Path("config/proxy_routes.yaml"))
    doctor.add_argument("--state-dir", type=Path, default=Path("runtime"))
    doctor.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 1 when a check fails; warnings don't count."""
    where = Where(options.models, options.routes, options.models_dir, options.state_dir)
    levels = []
    for finding in examine(where):
        levels.append(finding.level)
        print(f"{finding.level:5} {finding.subject:10} {finding.found}")
        if finding.remedy:
            print(f"{'':16} do: {finding.remedy}")
        sys.stdout.flush()
    failed, warned = levels.count("fail"), levels.count("warn")
    print(f"\n{len(levels)} checks: {failed} failed, {warned} warnings")
    return 1 if failed else 0


def examine(where: Where) -> Iterator[Finding]:
    """All findings, as they are made."""
    from llamakit import doctor_build, doctor_config, doctor_machine

    for module in (doctor_config, doctor_build, doctor_machine):
        checks: tuple[Check, ...] = module.CHECKS
        for check in checks:
            yield from check(where)
