"""The kit's command line, for console.sh and the Ansible roles: ``python -m llamakit COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llamakit.config.problems import ConfigError
from llamakit.doctor import cli as doctor
from llamakit.fetch import cli as fetch
from llamakit.fetch import prefetch
from llamakit.models import cli as models
from llamakit.services import preflight, status_cli, summary, supervise_cli

COMMANDS = (models, fetch, prefetch, preflight, supervise_cli, status_cli, summary, doctor)
EXIT_CONFIG = 2
EXIT_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command; each sets ``run``, which returns the exit status."""
    parser = argparse.ArgumentParser(prog="llamakit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 2 for wrong arguments or a wrong configuration."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
