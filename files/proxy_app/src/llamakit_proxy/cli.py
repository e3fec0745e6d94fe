"""The command line: ``llamakit-proxy`` and ``python -m llamakit_proxy``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__, db_cli, usage_cli, users_cli, verify
from .routes import RoutesError, load
from .settings import Settings, SettingsError
from .settings import load as load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 2: the settings, the routes or the arguments are wrong."""
    parser = argparse.ArgumentParser(
        prog="llamakit-proxy", description="The auth proxy of llamakit, its users and its usage."
    )
    parser.add_argument("--version", action="version", version=__version__)
    sub = parser.add_subparsers(title="commands", dest="command", required=True)
    serve = sub.add_parser("serve", help="run the proxy")
    serve.set_defaults(run=_serve)
    check = sub.add_parser("check-config", help="check the settings and the routes")
    check.add_argument("--routes", type=Path, help="check this file, not the one in the settings")
    check.set_defaults(run=_check)
    for commands in (db_cli, users_cli, usage_cli, verify):
        commands.add_commands(sub)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (SettingsError, RoutesError) as error:
        print(f"llamakit-proxy: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _serve(_: argparse.Namespace) -> int:
    # Only this command needs the server and all it imports; the others answer sooner without.
    from .serve import run

    return run(load_settings())


def _check(options: argparse.Namespace) -> int:
    settings: Settings = load_settings()
    path: Path = options.routes or settings.routes_path
    table = load(path, secret=settings.secret, default_max_tokens=settings.max_tokens)
    count = len(table.routes)
    print(f"{path}: {count} model{'' if count == 1 else 's'}, the settings are complete")
    return 0
