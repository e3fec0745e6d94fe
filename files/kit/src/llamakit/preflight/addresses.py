"""Addresses and ports that our services could not listen on, whether or not they are free."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamakit.config.problems import Problem
from llamakit.preflight.wants import Address, Wants

UNPRIVILEGED_PORT_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def wanted_addresses(wants: Wants, plan: dict[str, Any] | None) -> dict[str, Address]:
    """Where each service is to listen, by its name; without a plan all but the models."""
    models = [model for model in plan["models"] if model["running"]] if plan else []
    return wants.services | {
        f"llama-{model['id']}": (model["server"]["host"], model["port"]) for model in models
    }


def refused_addresses(wants: Wants, plan: dict[str, Any] | None) -> Iterator[Problem]:
    """A problem for each port and each address that the kernel would refuse a service of ours.

    For the proxy systemd listens where there is one: the system's is root, and may take any port,
    and its sockets may have an address that the machine gets later.
    """
    first = unprivileged_port_start()
    for name, (host, port) in wanted_addresses(wants, plan).items():
        by_systemd = name == "proxy" and wants.manager.startswith("systemd")
        if port < first and not (by_systemd and wants.manager == "systemd-system"):
            yield Problem(
                f"port {port} on {host}, for {name}",
                "a port that only root may listen on; the services run without root",
                f"a port from {first} on",
                f"choose another with {wants.setting(name)}",
            )
        if not by_systemd and (reason := _cannot_bind(host)):
            yield Problem(
                f"the address {host}, for {name}",
                f"this machine can't listen on it ({reason})",
                "an address of this machine (ip -brief address), 127.0.0.1, or 0.0.0.0 for all",
                f"correct {wants.host_setting(name)}",
            )


def unprivileged_port_start() -> int:
    """The first port that needs no root."""
    try:
        return int(UNPRIVILEGED_PORT_START.read_text())
    except (OSError, ValueError):
        return 1024


def _cannot_bind(host: str) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.strerror or str(error)
    return None
