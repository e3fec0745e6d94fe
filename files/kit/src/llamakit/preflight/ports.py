"""Ports that the services need and someone else has."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamakit.config.problems import Problem
from llamakit.preflight.addresses import wanted_addresses
from llamakit.preflight.listeners import Listener, find_listener
from llamakit.preflight.wants import Address, Wants
from llamakit.services.managers import load_state
from llamakit.services.running import running_services

ASK_SECONDS = 5.0
CLUSTERS = Path("/etc/postgresql")


def busy_ports(wants: Wants, plan: dict[str, Any] | None) -> Iterator[Problem]:
    """A problem for each port that someone other than our own services listens on."""
    yield from _shared(wants)
    running: list[dict[str, Any]] | None = None
    for name, (host, port) in wanted_addresses(wants, plan).items():
        if is_free(host, port):
            continue
        if running is None:
            running = running_services(wants.state_dir)
        # A running service of ours gives its port up when its settings change. After a start that
        # failed it may listen elsewhere than is noted, so its processes count as well.
        if port in {int(service["port"]) for service in running}:
            continue
        listener = find_listener(port)
        if listener.descends_from({service["pid"] for service in running}):
            continue
        if name == "postgres" and listener.program == "postgres" and port in cluster_ports():
            continue
        if _is_ours(wants.state_dir, name, listener):
            continue
        yield _in_use(wants, name, (host, port), listener)


def _in_use(wants: Wants, name: str, address: Address, listener: Listener) -> Problem:
    host, port = address
    return Problem(
        f"port {port} on {host}, for {name}",
        f"it is in use by {listener}",
        "a free port",
        f"stop that program, or choose another port with {wants.setting(name)}",
    )


def _shared(wants: Wants) -> Iterator[Problem]:
    """Services that were given the same port."""
    first: dict[int, str] = {}
    for name, (host, port) in wants.services.items():
        owner = first.setdefault(port, name)
        if owner != name:
            yield Problem(
                f"port {port} on {host}, for {name}",
                f"the port of {owner}, too",
                "a port of its own for every service",
                f"choose another port with {wants.setting(name)}",
            )


def cluster_ports(clusters: Path = CLUSTERS) -> set[int]:
    """The ports of the database clusters that the kit has made, of any version of PostgreSQL."""
    found = set()
    for file in [*clusters.glob("*/llamakit/*.conf"), *clusters.glob("*/llamakit/conf.d/*.conf")]:
        with contextlib.suppress(OSError):
            for match in re.finditer(r"^\s*port\s*=?\s*'?(\d+)", file.read_text(), re.MULTILINE):
                found.add(int(match[1]))
    return found


def _is_ours(state_dir: Path, name: str, listener: Listener) -> bool:
    """True when a unit of ours listens, or systemd itself for one that it starts when needed.

    That goes beyond the services we have noted: an interrupted run leaves units without a note.
    """
    try:
        prefix = load_state(state_dir)["unit_prefix"]
        # A checkout that root runs on the same machine has six digits after the prefix.
        if re.match(rf"{re.escape(prefix)}(?![0-9a-f]{{6}}[-.])", listener.unit):
            return True
        if listener.pid != 1:
            return False
        result = subprocess.run(
            ["systemctl", "is-active", "--quiet", f"{prefix}{name}.socket"],
            check=False,
            timeout=ASK_SECONDS,
        )
    except (OSError, KeyError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def is_free(host: str, port: int) -> bool:
    """False when somebody listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
