"""A steady load on a proxy, which notes every request that failed."""

from __future__ import annotations

import threading
from types import TracebackType

import httpx

from .hosts import Host

PAUSE_SECONDS = 0.05


class Load:
    """Requests one after the other while the block runs, on kept connections and on new ones.

    Attributes:
        sent: how many requests were sent.
        failures: what went wrong, a line each.
    """

    def __init__(self, host: Host, key: str) -> None:
        self.sent = 0
        self.failures: list[str] = []
        self._host = host
        self._key = key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kept,)) for kept in (True, False)]

    def _ask(self, kept: bool) -> None:
        client = self._host.http(self._key)
        while not self._stop.wait(PAUSE_SECONDS):
            try:
                answer = client.get("/v1/models")
                if answer.status_code != 200:
                    self.failures.append(f"HTTP {answer.status_code}: {answer.text}")
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
            self.sent += 1
            if not kept:
                client.close()
                client = self._host.http(self._key)
        client.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
