"""Reads and checks what users edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_config(models: Path, routes: Path, settings: Path | None = None) -> dict[str, Any]:
    """models.yaml and proxy_routes.yaml as one JSON-able document, for ``--config``.

    Raises:
        ConfigError: with everything that is wrong in them, and in ``settings`` (config/local.env).
    """
    # YAML and JSON schemas are known on the controller alone, where this is called.
    from llamakit.config.files import load_config

    return load_config(models, routes, settings).document()
