"""Reads YAML so that every value's line is known afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llamakit.config.problems import ConfigError, Problem

Path_ = tuple[str | int, ...]


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
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        shown = "".join(text.splitlines()[line - 1 : line]).strip()
        raise ConfigError(
            [
                Problem(
                    f"{file}, line {line}",
                    f"{error.problem or error.context}: {shown[:60]}",
                    "valid YAML, indented with spaces",
                    f"mend line {line} or the line above it",
                )
            ]
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # Control characters, a value that contains itself, or a date that no calendar has.
        reason = " ".join(str(error).split())[:70]
        raise ConfigError(
            [Problem(str(file), reason, "valid YAML", "remove or quote the odd value")]
        ) from error
    if problems:
        raise ConfigError(problems)
    return YamlSource(file, data, lines)


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
