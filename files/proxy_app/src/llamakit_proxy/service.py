"""Everything the stages share, and what happens around a request: start, stop, accounting."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import __version__
from .auth import KeyStore
from .backends import Backends
from .circuit import State
from .database import Role, password
from .exchange import Exchange
from .exposition import Reading
from .health import Health
from .limits import Limits
from .logging import LOGGER, milliseconds, write_request
from .metrics import Metrics
from .request_log import RequestLog, RequestRow
from .routes import RouteFile, RoutingTable
from .settings import Settings, SettingsError

if TYPE_CHECKING:
    from .tracing import Tracing

POLL_SECONDS = 0.5


class Service:
    """The parts of one proxy process."""

    def __init__(self, settings: Settings) -> None:
        """Reads routes and secrets; RoutesError or SettingsError when they can't be used, or when
        there is to be tracing and can't be."""
        password(settings, Role.PROXY)
        self.settings = settings
        self.keys = KeyStore(settings)
        self.request_log = RequestLog(settings)
        self.limits = Limits(settings)
        self.route_file = RouteFile(
            settings.routes_path,
            secret=settings.secret,
            default_max_tokens=settings.max_tokens,
        )
        self.backends = Backends(settings)
        self.backends.apply(self.route_file.table)
        self.health = Health(self.route_file, self.backends, self.keys, settings.release)
        self.metrics = Metrics(self._gauges)
        self.exchanges: set[Exchange] = set()
        """The requests that are being answered, save those of pages without a key."""
        self.tracing = _tracing(settings)
        self.stopping = False
        self._poller: asyncio.Task[None] | None = None

    @property
    def table(self) -> RoutingTable:
        """The routing table in force."""
        return self.route_file.table

    async def start(self, *, wait_for_database: bool = False) -> None:
        """Connect to the database and begin to follow the routes file.

        With ``wait_for_database`` until Postgres answers, however long that takes. SchemaError when
        its schema is too old for this release.
        """
        await self.keys.start(until_connected=wait_for_database)
        await self.limits.start()
        await self.request_log.start()
        self._poller = asyncio.create_task(self._follow_routes())

    async def close(self) -> None:
        """After the last request: write what is still to be written and disconnect."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
        self.backends.close()
        # Side by side: who stops a worker waits for the longest of them, not for all.
        ends = [self.limits.close(), self.request_log.close()]
        if self.tracing is not None:
            ends.append(self.tracing.close())
        await asyncio.gather(*ends)
        await self.keys.close()

    def drain(self) -> None:
        """Take no more work; who waits is sent away, who is being answered is not disturbed."""
        self.stopping = True
        self.backends.drain()

    def account(self, exchange: Exchange) -> None:
        """A request is over: count it, log it, keep a row of it."""
        self.limits.leave(exchange)
        seconds = time.perf_counter() - exchange.started_at
        self.metrics.observe(exchange, seconds)
        if self.tracing is not None:
            exchange.own_trace_id = self.tracing.record(exchange, seconds)
        write_request(exchange, seconds)
        identity = exchange.identity
        if identity is None:
            return
        self.request_log.record(
            RequestRow(
                created_at=exchange.created_at,
                username=identity.username,
                user_id=identity.user_id,
                key_id=identity.key_id,
                method=exchange.method,
                path=exchange.path,
                model=exchange.model,
                status_code=exchange.status,
                duration_ms=seconds * 1000,
                request_bytes=exchange.request_bytes,
                response_bytes=exchange.response_bytes,
                prompt_tokens=exchange.prompt_tokens,
                completion_tokens=exchange.completion_tokens,
                stream=exchange.stream,
                error_code=exchange.error_code,
                request_id=exchange.request_id,
                ttft_ms=milliseconds(exchange.ttft_seconds),
                queue_ms=milliseconds(exchange.queue_seconds),
                client=exchange.client,
            )
        )

    async def _follow_routes(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                self._look_at_routes()
            except Exception:
                # A mistake of ours must not last until the next start: routes could not be changed.
                LOGGER.exception("following the routes failed, and goes on")

    def _look_at_routes(self) -> None:
        before = self.route_file.error
        if self.route_file.poll():
            self.backends.apply(self.route_file.table)
            LOGGER.info("new routes are in force: %d models", len(self.table.routes))
        elif self.route_file.error is not None and self.route_file.error != before:
            LOGGER.error("the old routes stay in force: %s", self.route_file.error)

    def _gauges(self) -> Iterator[Reading]:
        """What is looked up for each scrape, a paragraph for each part: here new ones go. Each
        has a row in docs/monitoring.md, whose test wants it."""
        labels = {"version": __version__, "release": self.settings.release or ""}
        yield "llamakit_build_info", "1; what runs.", labels, 1
        yield "llamakit_in_flight", "Requests being answered.", {}, self.metrics.in_flight

        queues = self.backends.queues()
        for model, queue in queues.items():
            labels = {"model": model}
            yield "llamakit_queued", "Requests waiting for a place.", labels, queue.waiting
        for model, queue in queues.items():
            labels, running = {"model": model}, sum(queue.running().values())
            yield "llamakit_running", "Requests that hold a place.", labels, running
        for model, queue in queues.items():
            for url, state in queue.states().items():
                labels = {"model": model, "backend": url}
                text = "1 while requests go to the backend, 0 while it is left alone."
                available = float(state is State.CLOSED)
                yield "llamakit_backend_available", text, labels, available

        for model, url, up in self.health.backends():
            labels = {"model": model, "backend": url}
            yield "llamakit_backend_up", "1 while the backend takes connections.", labels, up

        current = self.route_file.error is None
        yield "llamakit_routes_current", "0 while the routes file can't be used.", {}, current

        connected = self.keys.connected
        yield "llamakit_database_connected", "1 while Postgres answers.", {}, connected

        pending, dropped = self.request_log.pending, self.request_log.dropped
        yield "llamakit_log_rows_pending", "Log rows not written yet.", {}, pending
        yield "llamakit_log_rows_dropped_total", "Log rows lost.", {}, dropped
        spooled, size = self.request_log.spooled, self.request_log.spool_bytes
        yield "llamakit_log_rows_spooled", "Of the rows pending, those on disk.", {}, spooled
        yield "llamakit_log_spool_bytes", "Size of the log rows' spool on disk.", {}, size

        sent, lost = (self.tracing.sent, self.tracing.dropped) if self.tracing else (0, 0)
        yield "llamakit_spans_sent_total", "Spans that a collector took.", {}, sent
        yield "llamakit_spans_dropped_total", "Spans lost.", {}, lost


def _tracing(settings: Settings) -> "Tracing | None":
    if settings.otlp_endpoint is None:
        return None
    try:
        # What this imports takes time and memory, and is only installed where it is wanted.
        from .tracing import Tracing
    except ImportError as error:
        raise SettingsError(
            f"LLAMA_PROXY_OTLP_ENDPOINT is set, and this environment has no {error.name}; "
            "run `./console.sh start` (or the playbook site.yml), which installs what tracing needs"
        ) from error
    return Tracing(settings.otlp_endpoint, settings.release)
