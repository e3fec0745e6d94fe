"""Spans for OpenTelemetry, sent over OTLP/HTTP. Only imported when there is somewhere to send them.

A request's spans are made when it is over, of the times that are noted of every request, so that
tracing does nothing while one runs. They hold what the log does, without client, user and key;
prompts and answers are in neither. The SDK sends them from a thread of its own. What it can't send
is counted and gone.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from . import __version__
from .correlation import TraceParent
from .exchange import Cause, Exchange
from .genai import OPERATIONS, PROVIDER

MAX_WAITING = 2048
"""Spans that may wait to be sent."""
CLOSE_SECONDS = 2.0
"""How long the last ones may take."""
_SPANS_OF_A_REQUEST = 3
_SEND_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_OF_THE_CLIENT = frozenset({Cause.CLIENT_GONE.value, Cause.CLIENT_SLOW.value})

_log = logging.getLogger(__name__)


class _Counted(SpanExporter):
    """Has spans sent, and counts them. Only the SDK's thread calls it, and only it writes here."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._exporter = OTLPSpanExporter(url, timeout=_TIMEOUT_SECONDS)
        self._working = True
        self.over = 0
        """Spans that wait no more."""
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:
            _log.exception("tracing: sending failed")
            result = SpanExportResult.FAILURE
        works = result is SpanExportResult.SUCCESS
        if not works:
            self.failed += len(spans)
        self.over += len(spans)
        if works != self._working:
            self._working = works
            if works:
                _log.info("tracing: %s takes spans again", self._url)
            else:
                _log.warning("tracing: %s takes no spans; they are dropped", self._url)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK has no type here


class Tracing:
    """The spans of this process."""

    def __init__(self, endpoint: str, release: str | None) -> None:
        """``endpoint`` is the base of a collector's URLs, ``http://HOST:4318``."""
        # It says the same for every batch, several times; what is worth saying is said above.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._exporter = _Counted(f"{endpoint}/v1/traces")
        resource = {"service.name": "llamakit-proxy", "service.version": __version__}
        if release is not None:
            resource["llamakit.release"] = release
        # Its own sampler is wanted: a parent's decision holds, without a parent all are kept.
        self._provider = TracerProvider(resource=Resource.create(resource), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=MAX_WAITING,
                schedule_delay_millis=_SEND_SECONDS * 1000,
                max_export_batch_size=MAX_WAITING // 4,
            )
        )
        self._tracer = self._provider.get_tracer("llamakit_proxy", __version__)
        self._made = 0
        self._refused = 0

    @property
    def sent(self) -> int:
        """Spans that a collector has taken."""
        return self._exporter.over - self._exporter.failed

    @property
    def dropped(self) -> int:
        """Spans lost, because too many waited or nobody took them."""
        return self._refused + self._exporter.failed

    def record(self, exchange: Exchange, seconds: float) -> str | None:
        """Keep the spans of a request that is over; the id of the trace they are in.

        None when none are kept: the client's trace is not sampled, or too many wait.
        """
        if self._made - self._exporter.over + _SPANS_OF_A_REQUEST > MAX_WAITING:
            self._refused += _SPANS_OF_A_REQUEST
            return None
        root = self._tracer.start_span(
            f"{exchange.method} {exchange.path}",
            _context(exchange.trace_parent),
            kind=SpanKind.SERVER,
            attributes=_of_the_request(exchange),
            start_time=_nanoseconds(exchange, exchange.started_at),
        )
        if not root.is_recording():
            return None
        inside = set_span_in_context(root, Context())
        ended_at = exchange.started_at + seconds
        queue_seconds, asked_at = exchange.queue_seconds, exchange.asked_at
        if queue_seconds is not None:
            waited_until = ended_at if asked_at is None else asked_at
            # Of several generations the later ones wait after the first was asked, so that the sum
            # may be longer than the time before that.
            since = max(exchange.started_at, waited_until - queue_seconds)
            queue = self._tracer.start_span(
                "queue", inside, start_time=_nanoseconds(exchange, since)
            )
            queue.end(_nanoseconds(exchange, waited_until))
            self._made += 1
        if asked_at is not None:
            operation = self._tracer.start_span(
                f"{OPERATIONS.get(exchange.path, exchange.path)} {exchange.model}",
                inside,
                kind=SpanKind.CLIENT,
                attributes=_of_the_model(exchange) | _of_the_backend(exchange, asked_at),
                start_time=_nanoseconds(exchange, asked_at),
            )
            if _failed(exchange):
                operation.set_status(StatusCode.ERROR)
            operation.end(_nanoseconds(exchange, exchange.answered_at or ended_at))
            self._made += 1
        if _failed(exchange):
            root.set_status(StatusCode.ERROR)
        root.end(_nanoseconds(exchange, ended_at))
        self._made += 1
        return format(root.get_span_context().trace_id, "032x")

    async def close(self) -> None:
        """Send what waits, for a short time at most."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):
                # The loop is closed when this took too long.
                loop.call_soon_threadsafe(done.set)

        # The process ends without this thread: a collector that hangs is not waited for.
        threading.Thread(target=flush, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await done.wait()
        left = self._made - self._exporter.over
        if left or self.dropped:
            _log.warning("tracing: %d spans were dropped since the start", left + self.dropped)


def _context(parent: TraceParent | None) -> Context:
    if parent is None:
        return Context()
    remote = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT),
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _nanoseconds(exchange: Exchange, mark: float) -> int:
    """A time of ``perf_counter`` as nanoseconds since the epoch."""
    return int((exchange.created_at + mark - exchange.started_at) * 1e9)


def _failed(exchange: Exchange) -> bool:
    """Whether something failed here: not when the request was wrong, or its client left."""
    code = exchange.error_code
    if code is None or code in _OF_THE_CLIENT:
        return False
    return not 400 <= exchange.status < 500


def _of_the_request(exchange: Exchange) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        "http.request.method": exchange.method,
        "http.route": exchange.path,
        "http.response.status_code": exchange.status,
        "llamakit.request_id": exchange.request_id,
    }
    if exchange.error_code is not None:
        found["error.type"] = exchange.error_code
    if exchange.path in OPERATIONS and exchange.model is not None:
        found |= _of_the_model(exchange)
    return found


def _of_the_model(exchange: Exchange) -> dict[str, AttributeValue]:
    return {
        "gen_ai.operation.name": OPERATIONS.get(exchange.path, exchange.path),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": exchange.model or "",
    }


def _of_the_backend(exchange: Exchange, asked_at: float) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {"gen_ai.request.stream": exchange.stream}
    if exchange.backend is not None:
        found["server.address"] = exchange.backend.host
        found["server.port"] = exchange.backend.port
    if exchange.prompt_tokens is not None:
        found["gen_ai.usage.input_tokens"] = exchange.prompt_tokens
    if exchange.completion_tokens is not None:
        found["gen_ai.usage.output_tokens"] = exchange.completion_tokens
    if exchange.ttft_seconds is not None:
        first_at = exchange.started_at + exchange.ttft_seconds
        found["gen_ai.response.time_to_first_chunk"] = first_at - asked_at
    if exchange.error_code is not None:
        found["error.type"] = exchange.error_code
    return found
