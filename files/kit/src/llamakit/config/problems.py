"""Errors in what the user wrote, told all at once and on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what was found, what was expected and what to do."""

    where: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return (
            f"  {self.where}\n"
            f"    found:    {self.found}\n"
            f"    expected: {self.expected}\n"
            f"    do:       {self.remedy}"
        )


class ConfigError(Exception):
    """One or more problems in the configuration; ``str()`` fits one screen."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        title = "1 problem:" if count == 1 else f"{count} problems:"
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if count > MAX_SHOWN:
            shown.append(f"  … and {count - MAX_SHOWN} more, shown once these are mended")
        return "\n".join([title, *shown, "Nothing was changed."])


def shorten(value: object, width: int = 60) -> str:
    """A value as it may be shown in an error: on one line, cut to ``width`` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"
