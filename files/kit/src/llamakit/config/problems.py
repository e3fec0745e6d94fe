"""Errors in what the user wrote, told all at once and on one screen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
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
    """One or more problems in the configuration; ``str()`` tells the first ``shown`` of them."""

    def __init__(self, problems: Sequence[Problem], shown: int = MAX_SHOWN) -> None:
        super().__init__(problems)
        self.problems = list(problems)
        self.shown = shown

    def __str__(self) -> str:
        count = len(self.problems)
        title = "1 problem:" if count == 1 else f"{count} problems:"
        shown = [str(problem) for problem in self.problems[: self.shown]]
        if count > self.shown:
            shown.append(f"  … and {count - self.shown} more, shown once these are mended")
        return "\n".join([title, *shown, "Nothing was changed."])


def shorten(value: object, width: int = 60) -> str:
    """A value as it may be shown in an error: on one line, cut to ``width`` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``did you mean 'n_ctx'?`` or nothing; ``cutoff`` is how alike they are, from 0 to 1."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""
