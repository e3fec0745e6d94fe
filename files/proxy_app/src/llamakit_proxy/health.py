"""Whether the process is alive, and whether it can serve: two different questions."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from .auth import KeyStore
from .backends import CONNECT_SECONDS, Backends
from .circuit import State
from .routes import Route, RouteFile

FRESH_SECONDS = 1.0


class Health:
    """Readiness, looked up at most once a second however often it is asked for."""

    def __init__(
        self, routes: RouteFile, backends: Backends, keys: KeyStore, release: str | None
    ) -> None:
        self._routes = routes
        self._backends = backends
        self._keys = keys
        self.release = release
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._up: dict[str, bool] = {}

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether at least one model can be used, and what is up in detail.

        A backend is tried by connecting to it: its port opens once its model is loaded, and any
        request could queue behind what it generates. Without Postgres the keys this process
        knows still work, so that alone makes it ``degraded``, not unready.
        """
        await self.look()
        up = {route.id: self._count_up(route) for route in self._routes.table.routes}
        of = {route.id: len(route.backends) for route in self._routes.table.routes}
        connected = self._keys.connected
        ready = any(up.values())
        whole = up == of and connected and self._routes.error is None
        return ready, {
            "status": "ready" if ready and whole else "degraded" if ready else "unavailable",
            "models": {name: "up" if count else "down" for name, count in up.items()},
            "backends": {name: f"{count} of {of[name]} up" for name, count in up.items()},
            "database": "up" if connected else "down",
            "routes": "current" if self._routes.error is None else "invalid file, old ones kept",
            "release": self.release,
        }

    async def look(self) -> None:
        """Try the backends, unless that was done a moment ago."""
        async with self._lock:
            routes = self._routes.table.routes
            urls = {backend.url for route in routes for backend in route.backends}
            old = time.monotonic() - self._checked_at > FRESH_SECONDS
            if old or not urls <= self._up.keys():
                await self._try(urls)

    def backends(self) -> Iterator[tuple[str, str, bool]]:
        """Of each backend the model, the url and whether it was up at the last look."""
        for route in self._routes.table.routes:
            for backend in route.backends:
                yield route.id, backend.url, self._up.get(backend.url, False)

    def _count_up(self, route: Route) -> int:
        """How many of the backends take connections and are not left alone for failing."""
        states = self._backends.queue(route).states()
        return sum(
            self._up.get(backend.url, False) and states[backend.url] is not State.OPEN
            for backend in route.backends
        )

    async def _try(self, urls: set[str]) -> None:
        answers = await asyncio.gather(
            *(self._backends.upstream(url).reachable(CONNECT_SECONDS) for url in urls)
        )
        self._up = dict(zip(urls, answers, strict=True))
        self._checked_at = time.monotonic()
