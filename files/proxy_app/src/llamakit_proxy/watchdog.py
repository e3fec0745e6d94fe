"""A timer that is restarted often: once per chunk of every stream."""

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls ``fire`` when it has been running for ``seconds`` without a ``touch``.

    Touching writes one attribute; the timer underneath looks at it when it expires and sleeps on
    for what is left. After it fired it starts over, until it is stopped.
    """

    __slots__ = ("_fire", "_handle", "_loop", "_running", "seconds", "touched_at")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, fire: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None
        self.touched_at = 0.0
        """When something moved last, on the loop's clock. Who touches several sets it himself."""
        self._running = False
        self.seconds = seconds

    def start(self) -> None:
        """Run from now on."""
        self.touched_at = self._loop.time()
        self._running = True
        if self._handle is None:
            self._handle = self._loop.call_later(self.seconds, self._look)

    def touch(self) -> None:
        """Something moved."""
        self.touched_at = self._loop.time()

    def allow(self, seconds: float) -> None:
        """Allow so much time from now on."""
        self.seconds = seconds
        if self._handle is not None:
            self._handle.cancel()
            self._handle = self._loop.call_later(seconds, self._look)

    def rest(self) -> None:
        """Nothing is expected to move until the next start."""
        self._running = False

    def stop(self) -> None:
        """For good."""
        self._running = False
        # Whoever owns it is what it calls, and two that know each other are left to the collector.
        self._fire = _nothing
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self._handle = None
        if not self._running:
            return
        left = self.touched_at + self.seconds - self._loop.time()
        if left <= 0:
            self.touched_at = self._loop.time()
            left = self.seconds
            self._fire()
        if self._running:
            self._handle = self._loop.call_later(left, self._look)


def _nothing() -> None:
    """What a stopped one would call."""
