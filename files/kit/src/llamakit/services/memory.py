"""Memory of this machine, and of our processes, by what Linux tells in /proc."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
# Adding up shared pages walks the page tables, which takes too long for a large model.
MAX_PROPORTIONAL_BYTES = 4_000_000_000


def total_memory() -> int:
    """Bytes that this machine has, or that its container may use."""
    return min(_meminfo("MemTotal"), _cgroup_limit())


def available_memory() -> int:
    """Bytes that new programs can get without swapping."""
    return min(_meminfo("MemAvailable"), _cgroup_limit())


def tree_memory(pids: Iterable[int]) -> dict[int, int]:
    """Bytes used by each process and its descendants; a process that is gone is left out.

    Pages that several processes share are counted in parts (PSS), so that the sums add up; where
    the kernel doesn't tell that, or the process is very large, the resident set is taken.
    """
    wanted = list(pids)
    children = _children() if wanted else {}
    found = {}
    for pid in wanted:
        family, pending = [], [pid]
        while pending:
            current = pending.pop()
            family.append(current)
            pending += children.get(current, ())
        sizes = [size for size in map(_memory, family) if size is not None]
        if sizes:
            found[pid] = sum(sizes)
    return found


def private_memory(pid: int) -> int:
    """Bytes of the process that no file backs, 0 when it is gone."""
    return _status(pid, "RssAnon") or 0


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                # "PID (name) state parent …"; the name may hold spaces and brackets.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            children[int(fields[1])].append(int(entry.name))
    return children


def _memory(pid: int) -> int | None:
    resident = _status(pid, "VmRSS")
    if resident is None or resident > MAX_PROPORTIONAL_BYTES:
        return resident
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return resident
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(match[1]) * 1024 if match else resident


def _status(pid: int, key: str) -> int | None:
    """A size from the process' status in bytes; None when it is gone or has none."""
    try:
        text = (PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _meminfo(key: str) -> int:
    text = (PROC / "meminfo").read_text(encoding="ascii")
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _cgroup_limit() -> int:
    """The container's memory limit in bytes; huge when there is none."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return int(text) if text != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62
