"""Reads the files that users edit, and tells the mistakes of all at once."""

from __future__ import annotations

from pathlib import Path

from llamakit.config.entries import Config, ModelEntry, Route
from llamakit.config.local_env import local_env_problems
from llamakit.config.models_file import load_models
from llamakit.config.problems import ConfigError, Problem
from llamakit.config.routes_file import load_overrides


def load_config(models: Path, routes: Path, settings: Path | None = None) -> Config:
    """The checked content of models.yaml and proxy_routes.yaml.

    ``settings`` is this machine's config/local.env, which is checked alone: console.sh reads it.

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
    if settings is not None:
        problems += local_env_problems(settings)
    if problems:
        raise ConfigError(problems)
    return Config(models, tuple(entries), routes, tuple(overrides))
