"""One line of the log: the same for the master, which imports little, and for the workers."""

import functools
import json
import os
import time


def stamp(seconds: float) -> str:
    """Seconds since the epoch as UTC with milliseconds."""
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def log_line(created: float, level: str, logger: str, message: str, **more: object) -> str:
    """A record as JSON; control characters are escaped by that. ``created`` is since the epoch."""
    line = {"time": stamp(created), "level": level, "logger": logger, "message": message, **more}
    return json.dumps(line, separators=(",", ":"))


def write_line(line: bytes) -> None:
    """Write a line, its end included, to stderr at once: lines of several processes don't mix.

    Nobody reads the log any more (a closed pipe, a full disk)? Requests go on.
    """
    try:
        os.write(2, line)
    except OSError:
        return
