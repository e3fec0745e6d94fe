"""The state of a PostgreSQL that is no service of ours: the distribution's, or someone else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from llamakit.services.managers import Managed
from llamakit.services.service_status import ServiceStatus, State

DATABASE = "postgres"


@dataclass(frozen=True, slots=True)
class Database:
    """Where it listens, and a pattern for its unit where it runs on this host."""

    host: str
    port: int
    unit: str | None

    @staticmethod
    def of(state: Mapping[str, Any]) -> Database | None:
        """What state.json says of it; None when PostgreSQL is one of the services."""
        found = state.get("database")
        return Database(**found) if found else None

    @property
    def service(self) -> dict[str, Any]:
        """As a service to probe."""
        return {"host": self.host, "port": self.port, "probe": {"type": "postgres"}}

    def status(
        self, managed: Mapping[str, Managed], memory: Mapping[int, int], *, answered: bool
    ) -> ServiceStatus:
        """Its state: that it answers decides, its unit says why it does not.

        Args:
            managed: what the manager knows, its unit among it.
            memory: bytes by process.
        """
        view = next(
            (found for name, found in managed.items() if fnmatchcase(name, self.unit or "")), None
        )
        state: State = "up"
        detail = ""
        if not answered:
            state = "unhealthy"
            detail = f"does not answer on {self.host}:{self.port}"
            if self.unit and (view is None or view.state == "stopped"):
                state, detail = "stopped", "systemctl start 'postgresql@*-llamakit.service'"
        pid = view.pid if view else None
        return ServiceStatus(
            name=DATABASE,
            kind="postgres",
            model=None,
            state=state,
            detail=detail,
            host=self.host,
            port=self.port,
            pid=pid,
            memory_bytes=memory.get(pid) if pid else None,
            uptime_seconds=int(view.uptime) if view and view.uptime is not None else None,
            restarts=view.restarts if view else 0,
            log=f"journalctl -u '{self.unit}' -n 50" if self.unit else "",
        )
