"""Checks this machine against the plan before anything on it is changed."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from llamakit.arguments import Commands
from llamakit.config.problems import ConfigError, Problem
from llamakit.services.status import read_status

# The environments together, measured; more only while llama-cpp-python is compiled.
INSTALL_BYTES = 1_500_000_000
# What logs, the database and a restart need to be able to go on.
RESERVE_BYTES = 200_000_000


def add_commands(subcommands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``preflight`` to the kit's command line."""
    parser = subcommands.add_parser("preflight", help="check this machine against a plan")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--service", action="append", default=[], metavar="NAME=HOST:PORT")
    parser.add_argument("--plan", type=argparse.FileType(), required=True, help="a file, or -")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit 0 when all is well; raises ConfigError with everything that is not."""
    plan = json.load(options.plan)
    wanted = dict(_named(text) for text in options.service)
    for model in plan["models"]:
        if model["running"]:
            wanted[f"llama-{model['id']}"] = (model["server"]["host"], model["port"])
    problems = [*busy_ports(wanted, options.state_dir), *full_disk(options.state_dir)]
    if problems:
        raise ConfigError(problems)
    return 0


def _named(text: str) -> tuple[str, tuple[str, int]]:
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    return name, (host, int(port))


def busy_ports(wanted: dict[str, tuple[str, int]], state_dir: Path) -> Iterator[Problem]:
    """A problem for each port that someone other than the service of that name listens on.

    ``wanted`` maps service names to host and port. A port counts as free while a running service
    of the kit has it: that one gives it up when it changes.
    """
    ours = set(_running(state_dir))
    for name, (host, port) in wanted.items():
        if (host, port) in ours or _free(host, port):
            continue
        yield Problem(
            f"port {port} on {host}, for {name}",
            f"it is in use by {_owner(port)}",
            "a free port",
            f"stop that program, or choose another port with {_setting(name)} in config/local.env",
        )


def _running(state_dir: Path) -> Iterator[tuple[str, int]]:
    """Host and port of each service that the manager says is running."""
    if (state_dir / "state.json").exists():
        for service in read_status(state_dir).services:
            if service.pid is not None:
                yield service.host, service.port


def _setting(name: str) -> str:
    return {"proxy": "LLAMA_PROXY_PORT=", "postgres": "POSTGRES_AUTH_PORT="}.get(
        name, "LLAMA_SERVER_PORT="
    )


def _free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno not in {errno.EADDRINUSE, errno.EACCES}
    return True


def _owner(port: int) -> str:
    """The listening program, as far as we may see it."""
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or port not in connection.laddr[1:]:
            continue
        if connection.pid is None:
            return "another user's program (as root, `ss -ltnp` names it)"
        try:
            return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
        except psutil.Error:
            break
    return "a program that is not to be seen from here"


def full_disk(state_dir: Path) -> Iterator[Problem]:
    """A problem when there is no room for what is still to be installed."""
    installed = (state_dir / "services.d" / "proxy.json").exists()
    needed = RESERVE_BYTES if installed else RESERVE_BYTES + INSTALL_BYTES
    free = shutil.disk_usage(state_dir).free
    if free < needed:
        yield Problem(
            f"the disk of {state_dir}",
            f"{free / 1e9:.1f} GB free",
            f"at least {needed / 1e9:.1f} GB",
            f"make room, or move the checkout to a larger disk (df -h {state_dir})",
        )
