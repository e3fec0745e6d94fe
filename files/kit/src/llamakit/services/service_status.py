"""One service as ``status`` tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal[
    "up", "starting", "stopping", "stopped", "crashing", "failed", "unhealthy", "unknown"
]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service as people and scripts see it."""

    name: str
    kind: str
    model: str | None
    state: State
    detail: str
    host: str
    port: int
    pid: int | None
    memory_bytes: int | None
    uptime_seconds: int | None
    restarts: int
    log: str
    """A file, or the command that shows it; empty where the unit's name tells it."""
