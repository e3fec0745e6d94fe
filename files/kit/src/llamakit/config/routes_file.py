"""Reads config/proxy_routes.yaml, which overrides and completes the derived routes."""

from __future__ import annotations

from pathlib import Path

from llamakit.config.entries import Route
from llamakit.config.problems import ConfigError, Problem
from llamakit.config.schema_check import load_schema, schema_problems
from llamakit.config.yaml_source import load_yaml


def load_overrides(file: Path) -> list[Route]:
    """The entries of the file; none when there is no such file.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    if not file.exists():
        return []
    source = load_yaml(file)
    problems = schema_problems(source, load_schema("proxy_routes.schema.json"))
    if problems:
        raise ConfigError(problems)
    overrides: list[Route] = (source.data or {}).get("models") or []
    seen: set[str] = set()
    for index, override in enumerate(overrides):
        if override["id"] in seen:
            problems.append(
                Problem(
                    source.where(["models", index, "id"]),
                    f"the id {override['id']!r} a second time",
                    "one entry a model",
                    "join the two",
                )
            )
        seen.add(override["id"])
    if problems:
        raise ConfigError(problems)
    return overrides
