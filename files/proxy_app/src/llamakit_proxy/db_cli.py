"""``llamakit-proxy provision-db`` and ``init-db``: from an empty Postgres to a ready database."""

import argparse
import sys
from pathlib import Path
from typing import Any

from . import provision, schema
from .commands import guarded, print_json
from .settings import load


def add_commands(commands: Any) -> None:
    """Add both commands to what ``ArgumentParser.add_subparsers`` returned."""
    for name, run, text in (
        ("provision-db", _provision_db, "create or repair the database and its two roles"),
        ("init-db", _init_db, "create or migrate the schema; safe to repeat"),
    ):
        parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        parser.add_argument("--json", action="store_true", help="say what was done as JSON")
        parser.set_defaults(run=run)
        if run is _provision_db:
            parser.add_argument(
                "--socket-dir",
                type=Path,
                help="the folder of the server's socket: through it the superuser needs no "
                "password, and is given the one in the secret",
            )


@guarded
def _provision_db(args: argparse.Namespace) -> int:
    changes = provision.provision(load(), args.socket_dir)
    return _report(changes, args, "roles and database are as they should be")


@guarded
def _init_db(args: argparse.Namespace) -> int:
    settings = load()
    if schema.shares_the_owners_role(settings):
        print(
            f"warning: the proxy connects as {settings.postgres_user}, which owns the database; "
            "give it a role of its own in POSTGRES_AUTH_USER, so that it has fewer rights",
            file=sys.stderr,
        )
    changes = schema.initialise(settings)
    note = schema.is_newer(settings)
    if note is not None:
        print(f"warning: {note}", file=sys.stderr)
    return _report(changes, args, "the schema is up to date")


def _report(changes: list[str], args: argparse.Namespace, when_nothing: str) -> int:
    if args.json:
        print_json({"changed": bool(changes), "changes": changes})
    else:
        print("\n".join(changes) if changes else f"nothing to do: {when_nothing}")
    return 0
