"""`llamakit-proxy serve`: holds the listening socket and keeps one worker serving on it.

It imports little and serves nothing, so that there is next to nothing in it that could fail.

- SIGHUP starts another worker: of the release and with the settings that are in place by then. Once
  that one can serve it takes over; the old one takes no more connections and ends when it has
  answered what it was asked. When the new one ends or is not ready in time, the old one stays.
- A worker that ends unasked is started again, after a pause when that happens often.
- SIGTERM and SIGINT end it all in order; a second SIGINT at once.
- A worker that can't start while none has ever served ends the master with the same exit code:
  whoever started it sees at once that it was in vain.

The listening socket, and the time a worker may take to be ready, stay those of the first start.
"""

import selectors
import signal
import socket
import time
from types import FrameType

from .listener import listen
from .log_line import log_line, write_line
from .settings import Settings
from .worker_process import CLOSE_SECONDS, Worker

PAUSES_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Before a worker is started again: the next one each time it ends without having lasted."""
LASTING_SECONDS = 60.0
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_FOREVER = float("inf")


def run(settings: Settings) -> int:
    """Serve until a signal says to stop; the exit code."""
    master = Master(listen(settings), settings.ready_timeout_seconds)
    try:
        return master.run()
    finally:
        master.kill_all()


class Master:
    """At most one worker that serves, one that gets ready, and some that end."""

    def __init__(self, listeners: list[socket.socket], ready_seconds: float) -> None:
        self._listeners = listeners
        self._ready_seconds = ready_seconds
        self._current: Worker | None = None
        self._candidate: Worker | None = None
        self._leaving: list[Worker] = []
        self._reload_wanted = False
        self._start_at = 0.0
        self._failures = 0
        self._ever_ready = False
        self._exit_code: int | None = None
        """Set from the moment it is to end."""

    def run(self) -> int:
        """Until there is nothing left to do; the exit code."""
        woken, wakes = socket.socketpair()
        woken.setblocking(False)
        wakes.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        while self._exit_code is None or self._workers():
            self._start_if_due()
            self._wait(woken)
            for received in _read(woken):
                self._obey(received)
            self._reap()
            self._hear_candidate()
            self._lose_patience()
        return self._exit_code

    def kill_all(self) -> None:
        """End every worker now."""
        for worker in self._workers():
            worker.kill()

    def _workers(self) -> list[Worker]:
        known = (self._current, self._candidate, *self._leaving)
        return [worker for worker in known if worker is not None]

    # -- what it waits for ---------------------------------------------------------------------

    def _wait(self, woken: socket.socket) -> None:
        due = [worker.kill_at for worker in self._workers()]
        if self._may_start():
            due.append(self._start_at)
        first = min(due, default=_FOREVER)
        timeout = None if first == _FOREVER else max(0.0, first - time.monotonic())
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            if self._candidate is not None:
                selector.register(self._candidate.channel, selectors.EVENT_READ)
            selector.select(timeout)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP and self._exit_code is None:
            self._reload_wanted = True
            if self._current is None:
                # What kept it from starting may have been put right.
                self._start_at = 0.0
        elif number == signal.SIGINT and self._exit_code is not None:
            self.kill_all()
        elif number in (signal.SIGTERM, signal.SIGINT) and self._exit_code is None:
            self._stop(0 if number == signal.SIGTERM else 128 + signal.SIGINT)

    def _stop(self, exit_code: int) -> None:
        self._exit_code = exit_code
        for listener in self._listeners:
            listener.close()
        if self._candidate is not None:
            self._candidate.kill()
        for worker in (self._current, *self._leaving):
            if worker is not None:
                worker.stop()

    # -- workers come --------------------------------------------------------------------------

    def _may_start(self) -> bool:
        wanted = self._current is None or self._reload_wanted
        return wanted and self._candidate is None and self._exit_code is None

    def _start_if_due(self) -> None:
        if not self._may_start():
            return
        replacing = self._current is not None
        if not replacing and time.monotonic() < self._start_at:
            return
        self._reload_wanted = False
        try:
            worker = Worker(self._listeners, replacing=replacing)
        except OSError as error:
            self._failed(f"can't be started: {error.strerror}: {error.filename}", 1)
            return
        worker.kill_at = worker.started + self._ready_seconds
        self._candidate = worker

    def _hear_candidate(self) -> None:
        worker = self._candidate
        if worker is None or not worker.listen() or self._exit_code is not None:
            return
        worker.go()
        worker.kill_at = _FOREVER
        old, self._current, self._candidate = self._current, worker, None
        self._ever_ready = True
        text = f"worker {worker.pid} serves (release {worker.release})"
        if old is not None:
            old.retire()
            self._leaving.append(old)
            text += f"; worker {old.pid} finishes what it has begun"
        _say("info", text)

    # -- workers go ----------------------------------------------------------------------------

    def _reap(self) -> None:
        for worker in self._workers():
            if not worker.ended:
                continue
            worker.close()
            if worker in self._leaving:
                self._leaving.remove(worker)
                if worker.process.returncode:
                    _say("error", f"worker {worker.pid} {worker.end} with requests to finish")
            elif worker is self._candidate:
                self._candidate = None
                if self._exit_code is None:
                    self._failed(worker.end, worker.process.returncode)
            else:
                self._current = None
                if self._exit_code is None:
                    self._lost(worker)

    def _lost(self, worker: Worker) -> None:
        if time.monotonic() - worker.started >= LASTING_SECONDS:
            self._failures = 0
        pause = self._pause()
        _say("error", f"worker {worker.pid} {worker.end} unasked; the next one starts {pause}")

    def _failed(self, how: str, code: int) -> None:
        """The candidate is gone before it served."""
        if self._current is not None:
            _say(
                "error",
                f"the new worker {how} before it could serve, and says why above; worker "
                f"{self._current.pid} (release {self._current.release}) goes on",
            )
        elif self._ever_ready:
            pause = self._pause()
            _say("error", f"the worker {how} before it could serve; the next one starts {pause}")
        else:
            if code != 2:
                # With 2 the worker has said in one line what is wrong with the settings.
                _say("error", f"the worker {how} before it could serve")
            self._exit_code = code if code > 0 else 1

    def _pause(self) -> str:
        seconds = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        self._failures += 1
        self._start_at = time.monotonic() + seconds
        return f"in {seconds:g} s" if seconds else "now"

    def _lose_patience(self) -> None:
        now = time.monotonic()
        for worker in self._workers():
            if now < worker.kill_at:
                continue
            worker.kill_at = _FOREVER
            worker.kill()
            if worker is self._candidate:
                limit = f"{self._ready_seconds:g} s (LLAMA_PROXY_READY_TIMEOUT_SECONDS)"
                _say("error", f"the new worker {worker.pid} was not ready within {limit}")
            else:
                _say(
                    "error",
                    f"worker {worker.pid} did not end in the time for that and {CLOSE_SECONDS:g} s",
                )


def _read(woken: socket.socket) -> bytes:
    """The numbers of the signals that came."""
    try:
        return woken.recv(4096)
    except BlockingIOError:
        return b""


def _nothing(_: int, __: FrameType | None) -> None:
    """Waking up is all there is to do at once."""


def _say(level: str, message: str) -> None:
    write_line(f"{log_line(time.time(), level, __name__, message)}\n".encode())
