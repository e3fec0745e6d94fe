"""One request and its answer: what is known of it, how it is answered, how it is accounted for."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, Literal, Protocol

from . import wire
from .body import Receive
from .charge import Charge
from .correlation import TraceParent, client_request_id, trace_parent
from .errors import ApiError
from .identity import Identity
from .routes import Backend
from .watchdog import Watchdog

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]
Header = tuple[bytes, bytes]

ABORT = "llamakit.abort"
"""Name of the scope extension that drops the client's connection at once, unsent bytes too."""
CONNECTION = "llamakit.connection"
"""Name of the scope extension that is the client's connection."""

CLIENT_CLOSED = 499

_JSON = (b"content-type", b"application/json")
_EVENTS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


Phase = Literal["queued", "running"]
"""What a request does that has a place, or waits for one."""


class Cause(Enum):
    """Why a request was cut short. The value is its error code in the log."""

    CLIENT_GONE = "client_disconnected"
    CLIENT_SLOW = "client_too_slow"
    BACKEND_STALLED = "backend_timeout"
    STOPPING = "server_stopping"


class ClientConnection(Protocol):
    """What ASGI does not offer."""

    @property
    def congested(self) -> bool:
        """Whether a write would wait for the client now."""

    @property
    def body_has_come(self) -> bool:
        """Whether reading the body would not wait for the client."""

    def on_leaving(self, call: Callable[[], None] | None) -> None:
        """Have this called, once, when the client goes, or has gone already; None for no call."""

    def write(self, data: bytes) -> bool:
        """Send more of a stream that has begun. False when that can't be done at once: nothing was
        then."""

    def write_chunk(self, chunk: bytes) -> bool:
        """The same for data that is framed as HTTP's chunk already."""

    def answer(self, headers: list[Header], body: bytes) -> bool:
        """Send the whole answer, a 200, in one go. False when that can't be done: nothing was
        then."""


class Exchange:
    """Everything about one request on its way through the stages."""

    identity: Identity | None = None
    charge: Charge | None = None
    """What it holds of the user's limits."""
    model: str | None = None
    stream = False
    status = 0
    error_code: str | None = None
    cause: Cause | None = None
    request_bytes = 0
    response_bytes = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    begun = False
    """Whether a backend was asked."""
    generated = 0
    """Pieces of an answer that came from the backend; each is about a token."""
    ttft_seconds: float | None = None
    queue_seconds: float | None = None
    overhead_seconds: float | None = None
    reading_seconds = 0.0
    failovers = 0
    """How often a backend failed and another was asked."""
    phase: Phase | None = None
    backend: Backend | None = None
    """Who was asked last."""
    backend_seconds = 0.0
    asked_at: float | None = None
    """When a backend was asked first; like ``started_at`` and ``answered_at`` on the clock of
    ``time.perf_counter``."""
    answered_at: float | None = None
    """When the last one had answered, or failed."""
    own_trace_id: str | None = None
    """The trace it was recorded in."""

    _watching = False
    _last_event: Callable[[ApiError], bytes] | None = None
    _closed = False
    _writing: Watchdog | None = None

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        path: str,
        write_seconds: float,
        *,
        client: str | None,
    ) -> None:
        self.scope = scope
        self.client = client
        """The client's address, see client_address.py."""
        self.receive = receive
        self.method: str = scope["method"]
        self.path = path
        """The route's template: it is logged, the path the client sent never is."""
        self.request_id = f"req_{os.urandom(12).hex()}"
        self.created_at = self.phase_since = time.time()
        self.started_at = time.perf_counter()
        self.headers: list[Header] = [(b"x-request-id", self.request_id.encode())]
        """Sent with whatever the answer is."""
        self.loop = asyncio.get_running_loop()
        # Taken out: it knows the scope, and two that know each other are left to the collector.
        self.connection: ClientConnection = scope["extensions"].pop(CONNECTION)
        self._send = send
        self._task = asyncio.current_task()
        self._write_seconds = write_seconds

    # -- the client ----------------------------------------------------------------------------

    @property
    def output_token_seconds(self) -> float | None:
        """How long each token after the first took; None when that can't be told."""
        if self.ttft_seconds is None or self.answered_at is None:
            return None
        after_the_first = (self.completion_tokens or 0) - 1
        if after_the_first < 1:
            return None
        return (self.answered_at - self.started_at - self.ttft_seconds) / after_the_first

    @contextmanager
    def asking(self, backend: Backend) -> Iterator[None]:
        """The block is the time of a backend."""
        since = time.perf_counter()
        self.backend = backend
        self.asked_at = self.asked_at or since
        try:
            yield
        finally:
            self.answered_at = time.perf_counter()
            self.backend_seconds += self.answered_at - since

    @property
    def started(self) -> bool:
        """Whether the status has gone out."""
        return self.status != 0

    def enter(self, phase: Phase | None) -> None:
        """The request is in this phase from now on; None when it has given its place back."""
        self.phase = phase
        self.phase_since = time.time()

    def header(self, name: bytes) -> bytes | None:
        """A request header's value; None when it is missing. It is empty when the header is there
        several times, because then nobody knows which one counts."""
        found = None
        for key, value in self.scope["headers"]:
            if key == name:
                if found is not None:
                    return b""
                found = value
        return found

    @property
    def client_request_id(self) -> str | None:
        """The client's own name for the request, for the log alone."""
        return client_request_id(self.header(b"x-request-id"))

    @property
    def trace_parent(self) -> TraceParent | None:
        """The client's span that this request is part of."""
        return trace_parent(self.header(b"traceparent"))

    @property
    def trace_id(self) -> str | None:
        """The trace that the request is part of."""
        if self.own_trace_id is not None:
            return self.own_trace_id
        parent = self.trace_parent
        return None if parent is None else parent.trace_id

    def watch_client(self) -> None:
        """From now on (the body has been read) a client that leaves interrupts the request."""
        self._watching = True
        self.connection.on_leaving(lambda: self.interrupt(Cause.CLIENT_GONE))

    def interrupt(self, cause: Cause) -> None:
        """Cut the request short, wherever it is: its task is cancelled and finds ``cause``."""
        if self._closed or self.cause is not None or self._task is None:
            return
        self.cause = cause
        self._task.cancel()

    def abort(self) -> None:
        """Drop the connection now. Closing it would wait for a client that takes nothing."""
        abort = (self.scope.get("extensions") or {}).get(ABORT)
        if abort is not None:
            abort["call"]()

    # -- the answer ----------------------------------------------------------------------------

    async def respond(
        self,
        status: int,
        body: bytes,
        headers: Iterable[Header] = (),
        *,
        content_type: Header = _JSON,
    ) -> None:
        """The whole answer at once."""
        self.status = status
        self._stop_watching()
        length = (b"content-length", b"%d" % len(body))
        head = [content_type, length, *self.headers, *headers]
        if status == 200 and self.connection.answer(head, body):
            self.response_bytes += len(body)
            return
        await self._send_head(head)
        await self._send_body(body, more=False)

    async def respond_json(self, status: int, document: object) -> None:
        """The whole answer as JSON."""
        await self.respond(status, wire.encode(document))

    async def start_stream(self, last_event: Callable[[ApiError], bytes]) -> None:
        """Status 200 and the headers of an event stream. ``last_event`` writes its end should it
        fail."""
        self.status = 200
        await self._send_head([*_EVENTS, *self.headers])
        self._last_event = last_event

    async def write(self, data: bytes) -> None:
        """More of a started stream."""
        if not self.write_at_once(data):
            await self._send_body(data, more=True)

    def write_at_once(self, data: bytes) -> bool:
        """The same, unless the client has to be waited for: then False, and nothing was written."""
        if not self.connection.write(data):
            return False
        self.response_bytes += len(data)
        return True

    def write_chunk(self, chunk: bytes, size: int) -> bool:
        """The same for data of that size which is framed as HTTP's chunk already."""
        if not self.connection.write_chunk(chunk):
            return False
        self.response_bytes += size
        return True

    async def end_stream(self, data: bytes) -> None:
        """The last of a started stream."""
        self._stop_watching()
        await self._send_body(data, more=False)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error: as the whole answer, or as the last event of a stream."""
        self.error_code = error.code
        if self._last_event is not None:
            await self.end_stream(self._last_event(error))
        if self.started:
            return
        headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in error.headers.items()]
        await self.respond(error.status, error.encode(), headers)

    async def recorded_send(self, message: MutableMapping[str, Any]) -> None:
        """``send`` for an ASGI application that answers in this exchange's place."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self.headers]
        else:
            self.response_bytes += len(message.get("body", b""))
        await self._send_in_time(message)

    def gave_up(self, cause: Cause) -> None:
        """There is nobody to answer any more. 499 stands for that in the log."""
        self.error_code = cause.value
        self.status = self.status or CLIENT_CLOSED

    def close(self) -> None:
        """Nothing interrupts the request any more; what is left is a last word, or nothing."""
        self._closed = True
        self.phase = None
        self._stop_watching()
        if self._writing is not None:
            self._writing.stop()

    def _stop_watching(self) -> None:
        """From the last write on, a client that leaves changes nothing."""
        if self._watching:
            self._watching = False
            self.connection.on_leaving(None)

    async def _send_head(self, headers: list[Header]) -> None:
        await self._send_in_time(
            {"type": "http.response.start", "status": self.status, "headers": headers}
        )

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        self.response_bytes += len(data)
        await self._send_in_time({"type": "http.response.body", "body": data, "more_body": more})

    async def _send_in_time(self, message: MutableMapping[str, Any]) -> None:
        if not self.connection.congested:
            await self._send(message)
            return
        if self._writing is None:
            self._writing = Watchdog(
                self.loop, self._write_seconds, lambda: self.interrupt(Cause.CLIENT_SLOW)
            )
        self._writing.start()
        await self._send(message)
        self._writing.rest()
