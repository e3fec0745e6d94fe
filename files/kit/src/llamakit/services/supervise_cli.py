"""The ``supervise`` command: what the service role and console.sh call on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llamakit.arguments import Commands
from llamakit.services import supervise
from llamakit.services.supervisord import SupervisorUnavailable


def add_commands(subcommands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``supervise apply|stop|restart|reload`` to the kit's command line."""
    parser = subcommands.add_parser("supervise", help="start, stop and restart local services")
    parser.add_argument("action", choices=["apply", "stop", "restart", "reload"])
    parser.add_argument("names", nargs="*", metavar="SERVICE")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument(
        "--restart", action="append", default=[], metavar="SERVICE", help="restart it in any case"
    )
    parser.add_argument("--release", default="", help="what reload has the services take up")
    parser.add_argument("--user", help="the system user that services run as (root only)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit 0 when done, 1 when a service did not do as asked."""
    try:
        if options.action == "apply":
            changed = supervise.apply(
                options.state_dir, options.names, options.user, options.restart
            )
        elif options.action == "stop":
            changed = supervise.stop(options.state_dir, options.names)
        elif options.action == "reload":
            changed = supervise.reload(options.state_dir, options.names, options.release)
        else:
            changed = supervise.restart(options.state_dir, options.names)
    except (supervise.SuperviseError, SupervisorUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    supervise.report(changed, options.json)
    return 0
