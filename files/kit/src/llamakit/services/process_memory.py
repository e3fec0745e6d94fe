"""Memory of a process with all its children."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil

# Adding up shared pages walks the page tables, which takes too long for a large model.
MAX_PROPORTIONAL_BYTES = 4_000_000_000


def tree_memory(pids: Iterable[int]) -> dict[int, int]:
    """Bytes used by each process and its descendants; a process that is gone is left out.

    Pages that several processes share are counted in parts (PSS), so that the sums add up; where
    the kernel doesn't tell that, or the process is very large, the resident set is taken.
    """
    children: dict[int, list[int]] = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process.pid)
    found = {}
    for pid in pids:
        family, pending = [], [pid]
        while pending:
            current = pending.pop()
            family.append(current)
            pending += children[current]
        sizes = [size for size in map(_memory, family) if size is not None]
        if sizes:
            found[pid] = sum(sizes)
    return found


def _memory(pid: int) -> int | None:
    try:
        resident = int(psutil.Process(pid).memory_info().rss)
        if resident > MAX_PROPORTIONAL_BYTES:
            return resident
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except psutil.Error:
        return None
    except OSError:
        return resident
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(match[1]) * 1024 if match else resident
