"""The kit's command line, for console.sh and the Ansible roles: ``python -m llamakit COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from llamakit.config.problems import ConfigError

# The module of each command; its add_commands adds them. Only what is asked for is imported: many
# commands run on a host, where there is nothing but Python's own library.
COMMANDS = {
    "read-config": "llamakit.config.cli",
    "plan": "llamakit.models.cli",
    "models": "llamakit.models.cli",
    "select": "llamakit.models.cli",
    "smoke": "llamakit.models.cli",
    "fetch": "llamakit.fetch.cli",
    "check-files": "llamakit.fetch.cli",
    "prefetch": "llamakit.fetch.prefetch",
    "preflight": "llamakit.preflight.cli",
    "note-packages": "llamakit.apt_packages",
    "own-packages": "llamakit.apt_packages",
    "certificate": "llamakit.certificate",
    "supervise": "llamakit.services.supervise_cli",
    "status": "llamakit.services.status_cli",
    "gpu-proof": "llamakit.services.gpu_proof",
    "summary": "llamakit.services.summary",
    "doctor": "llamakit.doctor.cli",
    "bundle": "llamakit.bundle.cli",
    "unpack-bundle": "llamakit.bundle.unpack_cli",
    "backup": "llamakit.database.cli",
    "backups": "llamakit.database.cli",
    "restore": "llamakit.database.cli",
    "restore-test": "llamakit.database.cli",
}
EXIT_CONFIG = 2
EXIT_INTERRUPTED = 130


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of one command, or of all; each sets ``run``, which returns the exit status."""
    program = os.environ.get("LLAMAKIT_PROGRAM") or "llamakit"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = [COMMANDS[command]] if command in COMMANDS else COMMANDS.values()
    for name in dict.fromkeys(names):
        try:
            importlib.import_module(name).add_commands(commands)
        except ModuleNotFoundError:
            if command in COMMANDS:
                raise
            # A command that can't run here is none that help should offer.
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 2 for wrong arguments or a wrong configuration."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # The services' user reads what is written, whatever the login's umask is.
    os.umask(0o022)
    try:
        options = build_parser(arguments[0] if arguments else None).parse_args(arguments)
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("llamakit"):
            raise
        print(
            f"llamakit: this command needs the Python module {error.name}, which {sys.executable} "
            "does not have.\nRun it from the controller (./console.sh), or with the Python of a "
            "model server's environment: /opt/llamakit/llama_server/*/bin/python -m llamakit …",
            file=sys.stderr,
        )
        return EXIT_CONFIG
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
