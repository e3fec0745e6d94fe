"""Gives every model a port that is its own, and lets it keep that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count

MAX_PORT = 65535


def assign_ports(
    fixed: Mapping[str, int | None], kept: Mapping[str, int], base: int, reserved: Collection[int]
) -> dict[str, int]:
    """One port a model, by its id.

    A model without a fixed port keeps the one it had last, and a new one gets the first from
    ``base`` on that nobody has: a model that goes, comes or changes its place moves no other.
    """
    ports = {model: port for model, port in fixed.items() if port is not None}
    taken = {*reserved, *ports.values()}
    for model in fixed:
        if model not in ports and (port := kept.get(model)) and port not in taken:
            ports[model] = port
            taken.add(port)
    free = (port for port in count(base) if port not in taken)
    return {model: ports.get(model) or next(free) for model in fixed}
