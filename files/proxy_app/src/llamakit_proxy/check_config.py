"""``llamakit-proxy check-config``: whether a proxy could run with these files."""

import argparse
import os
from pathlib import Path

from .database import Role, password
from .routes import load
from .settings import CONFIG_VARIABLE
from .settings import load as load_settings
from .tls import server_context


def add_commands(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds ``check-config`` to the command line."""
    text = "check the settings, the secrets they need, the certificate and the routes"
    parser = sub.add_parser(
        "check-config",
        help=text,
        description=f"{text.capitalize()}. Exit code 0: good; 2: not, and stderr says what is.",
    )
    parser.add_argument(
        "--config", type=Path, help=f"check this file, not the one named by {CONFIG_VARIABLE}"
    )
    parser.add_argument("--routes", type=Path, help="check this file, not the one in the settings")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit 0; SettingsError or RoutesError for the first thing that is wrong."""
    environment = dict(os.environ)
    if options.config is not None:
        environment[CONFIG_VARIABLE] = str(options.config)
    settings = load_settings(environment)
    path: Path = options.routes or settings.routes_path
    table = load(path, secret=settings.secret, default_max_tokens=settings.max_tokens)
    password(settings, Role.PROXY)
    server_context(settings)
    count = len(table.routes)
    print(f"{path}: {count} model{'' if count == 1 else 's'}, the settings are complete")
    return 0
