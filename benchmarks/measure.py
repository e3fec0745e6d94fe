"""Loads on a subject, and what they cost: times as a client sees them, CPU as the kernel counts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from .stack import LOAD_CORE, MODEL, MissingError, Stack, Subject, on_core

Figures = dict[str, float]

_WRK_SCRIPT = Path(__file__).parent / "native" / "chat.lua"
_MEBIBYTE = 1 << 20
_REST_SECONDS = 180
_REST_PACE = 0.25
_IDLE_CORES = 0.1


@dataclass(slots=True)
class Moment:
    """What had been used up by then, in seconds."""

    at: float
    subject: float
    everybody: float


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """CPU time of all threads, from the scheduler, in steps of nanoseconds."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def memory(subject: Subject) -> float:
    """Resident memory of all its processes, MiB."""
    total = 0
    for process in subject.processes():
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / _MEBIBYTE


def moment(subject: Subject) -> Moment:
    """Now."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq
    return Moment(time.monotonic(), cpu_seconds(subject.processes()), busy)


def saturate(subject: Subject, seconds: int, connections: int) -> Figures:
    """Plain requests, each connection asking again as soon as it has its answer. MissingError
    without wrk.

    ``cpu_us`` is the subject's CPU time for one request, microseconds; times are milliseconds.
    """
    if shutil.which("wrk") is None:
        raise MissingError("wrk is not here. Run: apt-get install wrk")
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "30s", "--script", str(_WRK_SCRIPT)]
    before = moment(subject)
    done = subprocess.run(
        on_core(LOAD_CORE, [*command, f"{subject.url}/v1/chat/completions"]),
        env={**os.environ, "KEY": subject.key, "MODEL": MODEL},
        capture_output=True,
        text=True,
        check=True,
    )
    after = moment(subject)
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    spent = after.subject - before.subject
    found["cpu_us"] = spent * 1e6 / max(1, found["requests"])
    return found


def stream(
    stack: Stack,
    subject: Subject,
    readers: int,
    seconds: float,
    *,
    chunks: int = 100,
    pace: int = 20,
    leave_after: int | None = None,
) -> Figures:
    """Event streams, ``chunks`` of them ``pace`` milliseconds apart for each of the readers.

    ``cpu_s`` is the subject's CPU time for 100,000 chunks, seconds; ``kept`` the share of the
    chunks that came while they were due; times are milliseconds.
    """
    command = [str(stack.folder / "streams")]
    command += map(str, (subject.port, readers, chunks, pace, 0.5, seconds))
    if leave_after is not None:
        command.append(str(leave_after))
    before = after = moment(subject)
    found: Figures = {}
    with subprocess.Popen(
        on_core(LOAD_CORE, command),
        env={**os.environ, "KEY": subject.key},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout or ():
            if line.startswith("START"):
                before = moment(subject)
            elif line.startswith("END"):
                after = moment(subject)
            else:
                found = json.loads(line)
    if process.returncode or not found:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    if problem := found.pop("problem", None):
        print(f"    {subject.name}: {problem}", flush=True)
    found["cpu_s"] = (after.subject - before.subject) * 1e5 / max(1, found["chunks"])
    found["kept"] = min(1.0, found["chunks_s"] / found["asked_s"])
    found["rss_mib"] = memory(subject)
    return found


def rest(processes: Iterable[psutil.Process]) -> None:
    """Until none of them does anything: one that has had more than it can do works on for a while,
    at the cost of whoever is measured next."""
    processes = list(processes)
    deadline = time.monotonic() + _REST_SECONDS
    spent, resting = cpu_seconds(processes), False
    while not resting:
        if time.monotonic() > deadline:
            raise RuntimeError(f"they still work after {_REST_SECONDS} seconds")
        time.sleep(_REST_PACE)
        before, spent = spent, cpu_seconds(processes)
        resting = spent - before < _REST_PACE * _IDLE_CORES


def strangers(ours: Iterable[psutil.Process], seconds: float = 0.5) -> float:
    """Cores that other processes use now: the figures are worth less, the more it is."""
    ours = list(ours)
    before, spent = psutil.cpu_times(), cpu_seconds(ours)
    time.sleep(seconds)
    after = psutil.cpu_times()
    busy = sum(after[:3]) - sum(before[:3])
    return float(max(0.0, (busy - (cpu_seconds(ours) - spent)) / seconds))


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": str(psutil.cpu_count()),
        "system": system[1] if system else "unknown",
        "kernel": os.uname().release,
    }
