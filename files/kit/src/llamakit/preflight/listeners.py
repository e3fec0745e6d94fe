"""Which program listens on a port, by what Linux tells in /proc."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening program; ``pid`` is None when it is not to be seen by us."""

    pid: int | None
    program: str
    exists: bool = True
    unit: str = ""  # of systemd, by its control group: llamakit-proxy.service

    def __str__(self) -> str:
        if self.pid is not None:
            return f"{self.program} (pid {self.pid})"
        if self.exists:
            return "another user's program (as root, `ss -ltnp` names it)"
        return "a program that is not to be seen from here"

    def descends_from(self, pids: Container[int], proc: Path = Path("/proc")) -> bool:
        """True when it is one of these processes, or a child of one, however many steps down."""
        pid = self.pid or 0
        while pid and pid not in pids:
            try:
                stat = (proc / str(pid) / "stat").read_text()
            except OSError:
                return False
            pid = int(stat.rpartition(")")[2].split()[1])
        return pid != 0


def find_listener(port: int, proc: Path = Path("/proc")) -> Listener:
    """The program that listens on the TCP port, on any address.

    Of several that share the socket, that is the one with the largest pid: systemd itself is named
    only when no service has taken its socket over.
    """
    inodes = set(_listening(port, proc))
    pids = [int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()]
    for pid in sorted(pids, reverse=True):
        if inodes & _sockets(proc / str(pid) / "fd"):
            try:
                program = (proc / str(pid) / "comm").read_text().strip()
                return Listener(pid, program, unit=_unit(proc / str(pid) / "cgroup"))
            except OSError:
                continue
    return Listener(None, "", exists=bool(inodes))


def _listening(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{fields[9]}]"


def _unit(groups: Path) -> str:
    for line in groups.read_text(errors="replace").splitlines():
        steps = [step for step in line.split("/") if step.endswith(".service")]
        if steps:
            return steps[-1]
    return ""


def _sockets(folder: Path) -> set[str]:
    found = set()
    try:
        for descriptor in folder.iterdir():
            try:
                found.add(os.readlink(descriptor))  # noqa: PTH115 - the target is not a path
            except OSError:
                continue
    except OSError:
        return set()
    return found
