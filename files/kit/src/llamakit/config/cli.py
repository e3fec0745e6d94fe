"""``read-config``: what the user configured, checked, as one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from llamakit.arguments import ROUTES, Commands


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the kit's command line."""
    parser = commands.add_parser(
        "read-config", help="check models.yaml and proxy_routes.yaml and print them as JSON"
    )
    parser.add_argument("--models", type=Path, default=Path("config/models.yaml"))
    parser.add_argument("--routes", type=Path, default=ROUTES)
    parser.add_argument("--settings", type=Path, help="this machine's config/local.env, to check")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 0; raises ConfigError with everything that is wrong."""
    from llamakit.config import read_config

    json.dump(read_config(options.models, options.routes, options.settings), sys.stdout, indent=2)
    print()
    return 0
