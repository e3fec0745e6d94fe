"""The backends behind the routing table: their queues and connections, kept over a reload."""

from .errors import backend_away
from .queue import AdmissionQueue
from .routes import Route, RoutingTable
from .settings import Settings
from .upstream import Upstream

CONNECT_SECONDS = 1.0
"""How long a look whether a backend takes connections may take."""


class Backends:
    """One queue per model, one client per backend."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queues: dict[str, AdmissionQueue] = {}
        self._upstreams: dict[str, Upstream] = {}
        self._stopping = False

    def apply(self, table: RoutingTable) -> None:
        """Serve this table from now on. Requests that run or wait stay where they are."""
        for route in table.routes:
            capacities = {backend.url: backend.capacity for backend in route.backends}
            queue = self._queues.get(route.id)
            if queue is None:
                queue = self._queues[route.id] = AdmissionQueue(
                    capacities,
                    limit=self._settings.queue_limit,
                    wait_seconds=self._settings.queue_timeout_seconds,
                    model=route.id,
                    reachable=self._reachable,
                )
                if self._stopping:
                    queue.close()
            else:
                queue.resize(capacities)
            for backend in route.backends:
                known = self._upstreams.get(backend.url)
                if known is None or known.backend != backend:
                    self._upstreams[backend.url] = Upstream(backend)
                    if known is not None:
                        known.close()
        ids = {route.id for route in table.routes}
        for gone in self._queues.keys() - ids:
            self._queues[gone].close(backend_away)
            del self._queues[gone]
        urls = {backend.url for route in table.routes for backend in route.backends}
        for gone in self._upstreams.keys() - urls:
            self._upstreams.pop(gone).close()

    def queue(self, route: Route) -> AdmissionQueue:
        """The queue of a route; ApiError 503 when a reload has just removed it."""
        queue = self._queues.get(route.id)
        if queue is None:
            raise backend_away()
        return queue

    def upstream(self, url: str) -> Upstream:
        """The client of a backend; ApiError 503 when a reload has just removed it."""
        upstream = self._upstreams.get(url)
        if upstream is None:
            raise backend_away()
        return upstream

    async def _reachable(self, url: str) -> bool:
        upstream = self._upstreams.get(url)
        return upstream is not None and await upstream.reachable(CONNECT_SECONDS)

    def queues(self) -> dict[str, AdmissionQueue]:
        """All queues by model id."""
        return dict(self._queues)

    def drain(self) -> None:
        """Admit nobody any more; what runs goes on."""
        self._stopping = True
        for queue in self._queues.values():
            queue.close()

    def close(self) -> None:
        """Close the idle connections."""
        for upstream in self._upstreams.values():
            upstream.close()
