"""Reads YAML so that every value's line is known afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llamakit.config.problems import ConfigError, Problem

Path_ = tuple[str | int, ...]

# What the parser was in the midst of, and the signs around it.
OPENED = {
    "while parsing a flow mapping": ("{", "}"),
    "while parsing a flow sequence": ("[", "]"),
    "while scanning a quoted scalar": ("quote", "the same quote"),
}
INDENTED = re.compile(r"but found '(<block \w+ start>|-)'")


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A parsed file: its data and where (1-based line) each path of keys and indexes stands."""

    file: Path
    data: Any
    lines: dict[Path_, int]

    def where(self, path: Sequence[str | int]) -> str:
        """``file, line N: models[0].port``, for the nearest enclosing value that has a line."""
        known = tuple(path)
        while known and known not in self.lines:
            known = known[:-1]
        place = f"{self.file}, line {self.lines.get(known, 1)}"
        return f"{place}: {spell(path)}" if path else place


def spell(path: Sequence[str | int]) -> str:
    """A path as people write it: ``models[0].source.file``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def load_yaml(file: Path) -> YamlSource:
    """Reads one YAML document.

    Raises:
        ConfigError: unreadable, not YAML, or a key given twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            [
                Problem(
                    str(file),
                    f"a file that can't be read ({reason})",
                    "a readable YAML file",
                    f"restore it, for example with: git checkout {file}",
                )
            ]
        ) from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return YamlSource(file, {}, {})
        lines: dict[Path_, int] = {}
        problems = list(_walk(file, node, (), lines))
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_not_yaml(file, text.splitlines(), error)]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # Control characters, a value that contains itself, or a date that no calendar has.
        reason = " ".join(str(error).split())[:70]
        raise ConfigError(
            [Problem(str(file), reason, "valid YAML", "remove or quote the odd value")]
        ) from error
    if problems:
        raise ConfigError(problems)
    return YamlSource(file, data, lines)


def _not_yaml(file: Path, lines: list[str], error: yaml.MarkedYAMLError) -> Problem:
    """The parser's error where the mistake is, which may be far above where it was noticed."""
    noticed, opened = (
        mark.line + 1 if mark else 1 for mark in (error.problem_mark, error.context_mark)
    )
    problem = error.problem or error.context or ""
    sign = OPENED.get(error.context or "")
    if sign and (noticed > opened or "end" in problem):
        line, found = opened, f"the {sign[0]} that opens here is never closed"
        if "end" not in problem:
            found = f"the {sign[0]} that opens here is not closed before line {noticed}"
        expected, remedy = f"valid YAML: {sign[1]} at its end", f"close it on line {line}"
    elif problem.startswith("mapping values are not allowed"):
        line, found = noticed, "a second ':', or a line that is indented more than it may be"
        expected = "valid YAML: one 'key: value' a line, and text with ': ' in it in quotes"
        remedy = f"mend line {line} or the one above"
    elif INDENTED.search(problem):
        line, found = noticed, "a line that is indented less or more than those it belongs to"
        expected = f"valid YAML: the same spaces before all entries of the block from line {opened}"
        remedy = f"indent line {line} like the others, or mend the one above"
    else:
        line, found = noticed, problem
        expected, remedy = "valid YAML, indented with spaces", f"mend line {line} or the one above"
    shown = "".join(lines[line - 1 : line]).strip()
    return Problem(f"{file}, line {line}", f"{found}: {shown[:60]}", expected, remedy)


def _walk(file: Path, node: yaml.Node, path: Path_, lines: dict[Path_, int]) -> Iterator[Problem]:
    """Notes the line of every value below ``node`` and yields keys that are given twice."""
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            line = key.start_mark.line + 1
            if below in lines:
                yield Problem(
                    f"{file}, line {line}: {spell(below)}",
                    f"the key a second time (first on line {lines[below]})",
                    "each key once",
                    f"remove line {line} or line {lines[below]}",
                )
                continue
            yield from _walk(file, value, below, lines)
            lines[below] = line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(file, value, (*path, index), lines)
