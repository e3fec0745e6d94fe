"""Gives every model a port that is its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def assign_ports(fixed: Sequence[int | None], base: int, reserved: Collection[int]) -> list[int]:
    """One port a model, in the order of the models.

    A model without a fixed port gets the next one from ``base`` on that is neither reserved nor
    fixed for another; appending a model leaves the ports of those before it as they are.
    """
    taken = {*reserved, *(port for port in fixed if port is not None)}
    ports: list[int] = []
    candidate = base
    for port in fixed:
        if port is None:
            while candidate in taken:
                candidate += 1
            port, candidate = candidate, candidate + 1
        ports.append(port)
    return ports
