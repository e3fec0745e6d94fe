"""Processes as the kernel shows them: whose they are, what they run, and how to end them by id."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

Result = TypeVar("Result")


def wait_for(condition: Callable[[], Result], seconds: float, what: str) -> Result:
    """The condition's first true value; fails with ``what`` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


def processes_of(uids: Iterable[int], folders: Iterable[Path]) -> list[psutil.Process]:
    """Processes that run as one of the users, or from or in one of the folders; never ourselves."""
    users, places = set(uids), [str(folder) for folder in folders]
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.uids().real in users or _touches(process, places):
                found.append(process)
    return found


def _touches(process: psutil.Process, places: list[str]) -> bool:
    seen = [*process.cmdline()]
    with contextlib.suppress(psutil.Error):
        seen += [process.exe(), process.cwd()]
    return any(place in text for place in places for text in seen)


def describe(processes: Iterable[psutil.Process]) -> list[str]:
    """One line a process, for a test's message."""
    lines = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            lines.append(f"{process.pid} {process.username()} {' '.join(process.cmdline())[:150]}")
    return lines


def end_all(find: Callable[[], list[psutil.Process]], seconds: float = 20) -> None:
    """Kills what ``find`` returns, by id, until it returns nothing: a watchdog may start more."""
    deadline = time.monotonic() + seconds
    while (found := find()) and time.monotonic() < deadline:
        for process in found:
            # Stopped first, so that none of them can start another meanwhile.
            with contextlib.suppress(psutil.Error):
                process.suspend()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=2)


def end_group(leader: int) -> None:
    """Kills the process group of a child that was started as its leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
