"""What runs: the manager's view and the services' own answers, put together within two seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llamakit.models.last_choice import last_choice
from llamakit.services.database_status import DATABASE, Database
from llamakit.services.managers import Managed, ManagerError, ask_manager, load_state
from llamakit.services.memory import tree_memory
from llamakit.services.probe import answers
from llamakit.services.service_status import ServiceStatus, State
from llamakit.services.supervise import load_services
from llamakit.services.upkeep import Upkeep, read_upkeep

ASK_SECONDS = 1.0  # for the manager and, at the same time, for every probe


@dataclass(frozen=True, slots=True)
class Status:
    """The whole place. ``overall`` decides the exit status: up 0, degraded 1, stopped 3."""

    overall: Literal["up", "degraded", "stopped"]
    mode: str | None
    model: str | None
    url: str
    manager: str
    problem: str | None  # why the manager could not be asked
    services: list[ServiceStatus]
    upkeep: Upkeep


def read_status(state_dir: Path) -> Status:
    """Asks the manager and all services at once.

    Args:
        state_dir: has ``state.json``, ``mode.json`` and the definitions in ``services.d``.
    """
    state = load_state(state_dir)
    last = last_choice(state_dir)
    services = load_services(state_dir)
    database = Database.of(state)
    managed: dict[str, Managed] = {}
    problem: str | None = None
    manager_runs = True
    probes = _Probes(services | ({DATABASE: database.service} if database else {}))
    others = [database.unit] if database and database.unit else []
    try:
        managed = ask_manager(state_dir, state, list(services), ASK_SECONDS, others)
    except ManagerError as error:
        problem, manager_runs = str(error), error.running
    memory = tree_memory(view.pid for view in managed.values() if view.pid)
    answered = probes.collect()
    found = [
        _join(service, managed.get(name), answered[name], memory, manager_runs)
        for name, service in services.items()
    ]
    overall = _overall(found, problem if manager_runs else None)
    if database:
        found.insert(0, database.status(managed, memory, answered=answered[DATABASE]))
        if overall == "up" and found[0].state != "up":
            overall = "degraded"
    return Status(
        overall=overall,
        mode=last.get("mode"),
        model=last.get("model"),
        url=state["proxy_url"],
        manager=state["manager"],
        problem=problem,
        services=found,
        upkeep=read_upkeep(state),
    )


class _Probes:
    """Probes that run at the same time, each in a thread that nobody waits for at the end."""

    def __init__(self, services: Mapping[str, dict[str, Any]]) -> None:
        self._deadline = time.monotonic() + ASK_SECONDS
        self._answered = dict.fromkeys(services, False)
        self._threads = [
            threading.Thread(target=self._probe, args=(name, service), daemon=True)
            for name, service in services.items()
        ]
        for thread in self._threads:
            thread.start()

    def _probe(self, name: str, service: dict[str, Any]) -> None:
        if answers(service, timeout=ASK_SECONDS):
            self._answered[name] = True

    def collect(self) -> dict[str, bool]:
        """Which services have answered in time."""
        for thread in self._threads:
            thread.join(max(self._deadline - time.monotonic(), 0))
        return dict(self._answered)


def _join(
    service: dict[str, Any],
    view: Managed | None,
    answered: bool,
    memory: Mapping[int, int],
    manager_runs: bool,
) -> ServiceStatus:
    state, detail = _judge(service, view, answered, manager_runs)
    return ServiceStatus(
        name=service["name"],
        kind=service["kind"],
        model=service["model"],
        state=state,
        detail=detail,
        host=service["host"],
        port=int(service["port"]),
        pid=view.pid if view else None,
        memory_bytes=memory.get(view.pid) if view and view.pid else None,
        uptime_seconds=int(view.uptime) if view and view.uptime is not None else None,
        restarts=view.restarts if view else 0,
        log=service["log"],
    )


def _judge(
    service: dict[str, Any], view: Managed | None, answered: bool, manager_runs: bool
) -> tuple[State, str]:
    """The state, and what is odd about it."""
    port = service["port"]
    if view is None:
        if manager_runs:
            return "unknown", "answers" if answered else "does not answer"
        if answered:
            return "unknown", f"something answers on port {port}, and no manager knows it"
        return "stopped", ""
    if view.state == "running":
        if answered:
            return "up", ""
        if view.uptime is not None and view.uptime < service["start_timeout"]:
            return "starting", ""
        return "unhealthy", f"does not answer on port {port}"
    if view.state == "starting" and answered:
        return "up", ""
    if view.state in ("stopped", "failed", "crashing") and answered:
        return view.state, f"another program answers on port {port}"
    if view.state == "crashing":
        return "crashing", "it ends each time it is started, and is tried again"
    if view.state == "failed":
        return "failed", "it ended and is not tried again"
    return view.state, ""


def _overall(
    services: list[ServiceStatus], problem: str | None
) -> Literal["up", "degraded", "stopped"]:
    if problem is not None:
        return "degraded"
    states = {service.state for service in services}
    if not states or states == {"stopped"}:
        return "stopped"
    return "up" if states == {"up"} else "degraded"
