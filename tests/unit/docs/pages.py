"""The documents as the tests read them: text, fenced code, tables, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    [
        *(
            ROOT / name
            for name in ("README.md", "AGENTS.md", "CHANGELOG.md", "benchmarks/README.md")
        ),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "monitoring").glob("*.yml"),
    ]
)

_FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_CONSOLE = re.compile(r"(?:^|[`( ])\./console\.sh( [^`\n)]*|`)", re.MULTILINE)


def name(page: Path) -> str:
    """A page's path as the tests' ids show it."""
    return str(page.relative_to(ROOT))


def page(path: str) -> str:
    """The text of a page, by its path in the checkout."""
    return (ROOT / path).read_text(encoding="utf-8")


def fences(text: str) -> list[str]:
    """What stands between ``` lines, one string a block."""
    return _FENCE.findall(text)


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def words(text: str) -> set[str]:
    """Everything set as `code` outside of fenced blocks."""
    return set(_INLINE.findall(prose(text)))


def section(text: str, title: str) -> str:
    """From a heading to the next one of its level or above; the heading is unique in the page."""
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert start, f"there is no heading {title!r}"
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[str]:
    """The lines of all tables, headings and rules left out."""
    lines = text.splitlines()
    rules = {i for i, line in enumerate(lines) if re.fullmatch(r"\|(-+\|)+", line)}
    headings = {i - 1 for i in rules}
    return [
        line
        for i, line in enumerate(lines)
        if line.startswith("|") and i not in rules and i not in headings
    ]


def cells(text: str, column: int = 0) -> set[str]:
    """The `code` in one column of all tables."""
    return {word for row in rows(text) for word in _INLINE.findall(row.split(" | ")[column])}


def console_commands(text: str) -> Iterator[list[str]]:
    """The arguments of each `./console.sh …` in a text, comments left out."""
    for match in _CONSOLE.finditer(text):
        if " VERB" not in match[1]:
            yield shlex.split(match[1].strip(" ;.,…`"), comments=True)
