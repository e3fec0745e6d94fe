"""Asks the service manager, supervisord or systemd, about the services, in one short call."""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llamakit.services.supervise import socket_path
from llamakit.services.supervisord import Supervisor, SupervisorUnavailable

State = Literal["running", "starting", "stopping", "stopped", "crashing", "failed"]

SUPERVISORD_STATES: dict[str, State] = {
    "RUNNING": "running",
    "STARTING": "starting",
    "STOPPING": "stopping",
    "STOPPED": "stopped",
    "BACKOFF": "crashing",
    "EXITED": "failed",
    "FATAL": "failed",
}
SYSTEMD_STATES: dict[str, State] = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "inactive": "stopped",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class Managed:
    """What the manager knows of a service.

    ``restarts`` counts how often it ended unasked since it was last started on purpose.
    """

    state: State
    pid: int | None = None
    uptime: float | None = None  # seconds
    restarts: int = 0


class ManagerError(Exception):
    """The manager can't be asked; ``running`` is False when it certainly does not run."""

    def __init__(self, message: str, *, running: bool) -> None:
        super().__init__(message)
        self.running = running


def load_state(state_dir: Path) -> dict[str, Any]:
    """What state.json says: the manager, how its units are called, the endpoint's address …"""
    return dict(json.loads((state_dir / "state.json").read_text()))


def ask_manager(
    state_dir: Path,
    state: Mapping[str, Any],
    names: Sequence[str],
    timeout: float,
    others: Sequence[str] = (),
) -> dict[str, Managed]:
    """The named services, or more, by name; of systemd also ``others``, by the units' names.

    Raises:
        ManagerError: it doesn't run, or doesn't answer within ``timeout`` seconds.
    """
    if state["manager"] == "supervisord":
        return ask_supervisord(state_dir, timeout)
    user = state["manager"] == "systemd-user"
    return ask_systemd(state["unit_prefix"], names, others, user=user, timeout=timeout)


def ask_supervisord(state_dir: Path, timeout: float) -> dict[str, Managed]:
    """Every service under supervisord by name.

    Raises:
        ManagerError: it doesn't run, doesn't answer within ``timeout`` seconds, or refuses.
    """
    config = state_dir / "supervisord.conf"
    if not config.exists():
        raise ManagerError("supervisord was never started here", running=False)
    socket = socket_path(state_dir)
    try:
        with contextlib.closing(Supervisor(socket, timeout)) as supervisor:
            found = supervisor.processes()
    except SupervisorUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            raise ManagerError("supervisord does not run", running=False) from error
        if isinstance(cause, PermissionError):
            message = f"no permission to ask {socket}; ask as the user who started it"
            raise ManagerError(message, running=True) from error
        message = f"supervisord does not answer on {socket} ({cause})"
        raise ManagerError(message, running=True) from error
    except xmlrpc.client.Error as error:
        raise ManagerError(f"supervisord refuses to answer ({error})", running=True) from error
    restarts = count_restarts(_log_lines(config), found)
    return {
        name: Managed(
            state=SUPERVISORD_STATES.get(info["statename"], "failed"),
            pid=info["pid"] or None,
            uptime=float(info["now"] - info["start"]) if info["pid"] else None,
            restarts=restarts[name],
        )
        for name, info in found.items()
    }


def count_restarts(log: Iterable[str], names: Iterable[str]) -> dict[str, int]:
    """How often each service ended unasked since it was last stopped on purpose, by the log.

    supervisord keeps no such number. Its log says ``spawned``, ``exited`` and ``stopped``; a second
    ``spawned`` without either between them means that supervisord itself was killed.
    """
    restarts = dict.fromkeys(names, 0)
    alive: set[str] = set()
    event = re.compile(r" (spawned|exited|stopped): '?([^' ]+)'?")
    for line in log:
        match = event.search(line)
        if match is None or match[2] not in restarts:
            continue
        kind, name = match[1], match[2]
        if kind == "stopped":
            restarts[name] = 0
        elif kind == "exited" or name in alive:
            restarts[name] += 1
        if kind == "spawned":
            alive.add(name)
        else:
            alive.discard(name)
    return restarts


def _log_lines(config: Path) -> Iterator[str]:
    """The lines of supervisord's log, with those of its rotated files before."""
    settings = configparser.RawConfigParser()
    settings.read(config)
    log = Path(settings["supervisord"]["logfile"])
    backups = settings.getint("supervisord", "logfile_backups", fallback=10)
    for number in range(backups, -1, -1):  # NAME.2, NAME.1, NAME
        with contextlib.suppress(OSError):
            file = log.with_name(f"{log.name}.{number}") if number else log
            yield from file.read_text(errors="replace").splitlines()


def ask_systemd(
    prefix: str, names: Sequence[str], others: Sequence[str], *, user: bool, timeout: float
) -> dict[str, Managed]:
    """The named services under systemd, by one call of systemctl, and other units, which may be
    patterns and whose names end with ``.service``.

    Raises:
        ManagerError: there is no systemctl, or it doesn't answer within ``timeout`` seconds.
    """
    command = ["systemctl", *(["--user"] if user else []), "show", "--property"]
    command.append("Id,ActiveState,SubState,MainPID,NRestarts,ActiveEnterTimestampMonotonic")
    command += [f"{prefix}{name}.service" for name in names]
    command += others
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise ManagerError("there is no systemctl here", running=False) from error
    except subprocess.TimeoutExpired as error:
        message = f"systemctl does not answer within {timeout:.1f} s"
        raise ManagerError(message, running=True) from error
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ManagerError(f"systemctl failed: {reason}", running=True)
    return dict(_units(result.stdout, prefix))


def _units(output: str, prefix: str) -> Iterable[tuple[str, Managed]]:
    """Blocks of ``Key=Value`` lines, one a unit, apart by empty lines."""
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    for block in output.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = values.get("Id", "")
        if name.startswith(prefix):
            name = name.removeprefix(prefix).removesuffix(".service")
        state = SYSTEMD_STATES.get(values.get("ActiveState", ""), "stopped")
        if values.get("SubState") == "auto-restart":
            state = "crashing"
        pid = int(values.get("MainPID") or 0) or None
        entered = int(values.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        yield (
            name,
            Managed(
                state=state,
                pid=pid,
                uptime=max(now - entered, 0.0) if pid and entered else None,
                restarts=int(values.get("NRestarts") or 0),
            ),
        )
