"""A worker as its master sees it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from .settings import CONFIG_VARIABLE

CLOSE_SECONDS = 9.0
"""How long after its last request a worker may take to write what it knows and to end."""


class Worker:
    """A process, and the channel to it."""

    def __init__(self, listeners: Sequence[socket.socket], *, replacing: bool) -> None:
        """Starts it. OSError when that can't be done.

        Both the interpreter and the settings may be named through a link that a deployment moves.
        It is followed here, so that the worker stays with one release whatever it opens later.
        """
        folder, name = os.path.split(sys.executable)
        environment = dict(os.environ)
        config = environment.get(CONFIG_VARIABLE)
        if config:
            place, file = os.path.split(config)
            environment[CONFIG_VARIABLE] = os.path.join(os.path.realpath(place), file)  # noqa: PTH118
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = [listener.fileno() for listener in listeners]
            self.process = subprocess.Popen(
                [
                    os.path.join(os.path.realpath(folder), name),  # noqa: PTH118
                    *("-m", __package__, "worker"),
                    *("--master", str(os.getpid()), "--channel", str(theirs.fileno())),
                    *(["--replacing"] if replacing else []),
                    *("--listen", *map(str, numbers)),
                ],
                env=environment,
                pass_fds=[*numbers, theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.channel = ours
        self.channel.setblocking(False)
        self.started = time.monotonic()
        self.kill_at = float("inf")
        self.ready = False
        self.release: str | None = None
        self.drain_seconds = self.reload_drain_seconds = 0.0
        self._said = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self.process.returncode
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def listen(self) -> bool:
        """Read what it says; whether it has just said that it is ready."""
        if self.ready:
            return False
        with contextlib.suppress(OSError):
            while data := self.channel.recv(4096):
                self._said += data
        if not self._said.endswith(b"\n"):
            return False
        # What is no such line is not ready, and its time runs out.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            facts = json.loads(self._said)
            self.drain_seconds = float(facts["drain_seconds"])
            self.reload_drain_seconds = float(facts["reload_drain_seconds"])
            self.release = facts["release"]
            self.ready = True
        return self.ready

    def go(self) -> None:
        """Have it serve."""
        with contextlib.suppress(OSError):
            self.channel.send(b"go\n")

    def retire(self) -> None:
        """Another one serves; it has time for what it has begun."""
        self._end(signal.SIGUSR1, self.reload_drain_seconds)

    def stop(self) -> None:
        """Nobody serves any more."""
        self._end(signal.SIGTERM, self.drain_seconds)

    def kill(self) -> None:
        """At once; it does not serve, or does not listen."""
        self.process.kill()

    def close(self) -> None:
        """Once it has ended."""
        self.channel.close()

    def _end(self, number: signal.Signals, seconds: float) -> None:
        self.process.send_signal(number)
        self.kill_at = min(self.kill_at, time.monotonic() + seconds + CLOSE_SECONDS)
