"""Reads the two files that users edit, and tells the mistakes of both at once."""

from __future__ import annotations

from pathlib import Path

from llamakit.config.entries import Config, ModelEntry, Route
from llamakit.config.models_file import load_models
from llamakit.config.problems import ConfigError, Problem
from llamakit.config.routes_file import load_overrides


def load_config(models: Path, routes: Path) -> Config:
    """The checked content of both files.

    Raises:
        ConfigError: with everything that is wrong in them.
    """
    entries: list[ModelEntry] = []
    overrides: list[Route] = []
    problems: list[Problem] = []
    try:
        entries = load_models(models)
    except ConfigError as error:
        problems += error.problems
    try:
        overrides = load_overrides(routes)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Config(models, tuple(entries), routes, tuple(overrides))
