"""What the modules that add commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.config.entries import Config

Commands = argparse._SubParsersAction

ROUTES = Path("config/proxy_routes.yaml")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where the configuration and the models' files are."""
    parser.add_argument("--models", type=Path, default=Path("config/models.yaml"))
    parser.add_argument(
        "--config", metavar="FILE", help="instead of --models: what read-config printed; - is stdin"
    )
    parser.add_argument("--models-dir", type=Path, default=Path("models"))


def configuration(options: argparse.Namespace) -> Config:
    """What the arguments name: the document of ``read-config``, or the files that users edit.

    Without ``options.routes`` the routes are not read.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    from llamakit.config.entries import Config, parse_document

    if options.config is not None:
        file = options.config
        return parse_document(sys.stdin.read() if file == "-" else Path(file).read_text())
    # Reading YAML takes modules that a host's own Python does not have.
    if "routes" in options:
        from llamakit.config.files import load_config

        return load_config(options.models, options.routes, getattr(options, "settings", None))
    from llamakit.config.models_file import load_models

    return Config(options.models, tuple(load_models(options.models)))
