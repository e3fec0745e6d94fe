"""Shows how a download goes: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Literal, TextIO

from llamakit.quantities import duration, size

Style = Literal["auto", "plain", "none"]
REDRAW_SECONDS = 0.2
PLAIN_SECONDS = 10.0
PLAIN_PERCENT = 5
RATE_WINDOW_SECONDS = 5.0
BAR_WIDTH = 24


class Progress:
    """Progress of one file; ``total`` in bytes, 0 when it is not known."""

    def __init__(self, name: str, style: Style = "auto", file: TextIO | None = None) -> None:
        self._name = name
        self._file = file or sys.stderr
        self._bar = style == "auto" and self._file.isatty()
        self._silent = style == "none"
        self._drawn_at = -PLAIN_SECONDS
        self._drawn_percent = -PLAIN_PERCENT
        self._marks: deque[tuple[float, int]] = deque()
        self.total = 0

    def update(self, done: int) -> None:
        """Tells that ``done`` bytes are there; draws when it is time to."""
        now = time.monotonic()
        self._marks.append((now, done))
        while now - self._marks[0][0] > RATE_WINDOW_SECONDS:
            self._marks.popleft()
        percent = 100 * done // self.total if self.total else 0
        waited = now - self._drawn_at
        if self._bar:
            due = waited >= REDRAW_SECONDS
        else:
            due = waited >= PLAIN_SECONDS or percent >= self._drawn_percent + PLAIN_PERCENT
        if due and not self._silent:
            self._drawn_at, self._drawn_percent = now, percent
            self._draw(done, percent)

    def finish(self, done: int) -> None:
        """Draws the last state and leaves the line."""
        percent = 100 * done // self.total if self.total else 0
        if self._silent or (not self._bar and percent == self._drawn_percent):
            return
        self._draw(done, percent)
        if self._bar:
            print(file=self._file, flush=True)

    def _draw(self, done: int, percent: int) -> None:
        rate = self._rate()
        parts = [f"{done / 1e6:.0f} of {self.total / 1e6:.0f} MB" if self.total else size(done)]
        if rate:
            parts.append(f"{rate / 1e6:.1f} MB/s")
            if self.total > done:
                parts.append(f"{duration((self.total - done) / rate)} left")
        details = ", ".join(parts)
        if self._bar:
            filled = BAR_WIDTH * percent // 100
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            # The name is left out: with it, the line would wrap in 80 columns and not redraw.
            print(f"\r[{bar}] {percent:3}% {details}\x1b[K", end="", file=self._file, flush=True)
        else:
            print(f"{self._name}: {percent}% ({details})", file=self._file, flush=True)

    def _rate(self) -> float:
        """Bytes a second over the last seconds, 0 before it can be told."""
        if not self._marks:
            return 0.0
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end - start > 0.1 else 0.0
