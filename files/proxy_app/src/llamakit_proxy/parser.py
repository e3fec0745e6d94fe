"""Every command of ``llamakit-proxy`` that people type, and the help for it."""

import argparse
from collections.abc import Sequence

from . import __version__, check_config, db_cli, master, usage_cli, users_cli, verify
from .program import PROGRAM
from .settings import load


def run(words: Sequence[str]) -> int:
    """Run one command; its exit code. SettingsError when the settings are wrong."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="The auth proxy of llamakit, its users and its usage."
    )
    parser.add_argument("--version", action="version", version=__version__)
    sub = parser.add_subparsers(title="commands", dest="command", required=True)
    serve = sub.add_parser(
        "serve",
        help="run the proxy",
        description="Run the proxy. SIGHUP has it go over to the release and the settings that are "
        "in place by then, without a failed request.",
    )
    serve.set_defaults(run=_serve)
    for commands in (check_config, db_cli, users_cli, usage_cli, verify):
        commands.add_commands(sub)
    options = parser.parse_args(words)
    return int(options.run(options))


def _serve(_: argparse.Namespace) -> int:
    return master.run(load())
