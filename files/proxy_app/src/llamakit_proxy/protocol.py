"""One client's connection: uvicorn's HTTP/1.1 with limits, and with a polite end."""

import asyncio
import re
import select
from collections.abc import Callable
from itertools import chain

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from .errors import ApiError
from .exchange import ABORT, CONNECTION, Header
from .upgrade import RequestParser, head_without_wish

HEADER_SECONDS = 10.0
"""A connection that has not sent a whole head within this is closed, idle new ones included."""
BODY_SECONDS = 45.0
"""A request's body has to be there within this, also one that nobody reads because the request was
answered by its head. Longer than what a request may take that does read it: that one gets a 408."""
MAX_HEAD = 32 << 10
MAX_FRAMING = 32 << 10
"""Bytes of a chunked body without one that is content: extensions of chunks, and trailers."""
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class State(ServerState):
    """What all connections share."""

    leaving = False
    """Whether this process ends soon, and each answer from now on is its connection's last."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with a limit on how large a request's head may be and how long it may
    take, OpenAI's error object for what is not HTTP, and a way to drop a client that stalls."""

    server_state: State
    parser: RequestParser
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _framing_bytes = 0
    _in_head = True
    _completed = 0
    _lost = False
    _leaving: Callable[[], None] | None = None

    # uvicorn narrows asyncio's BaseTransport the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = RequestParser(self)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._stop_head_timer()
        self._stop_body_timer()
        super().connection_lost(exc)
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            leaving()

    def data_received(self, data: bytes) -> None:
        completed = self._completed
        self._framing_bytes += len(data)
        super().data_received(data)
        # What ends one request may begin the next head: those few bytes go uncounted, once.
        if self._in_head and self._completed == completed:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self._refuse(431, "headers_too_large", "The request's headers are too large.")
        elif self._framing_bytes > MAX_FRAMING and not self._in_head:
            self.transport.abort()
        self._set_a_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"call": self.transport.abort}}
        if self._head_timer is None:
            self._expect_head()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._in_head = False
        self._framing_bytes = 0
        size = sum(map(len, chain.from_iterable(self.headers))) + len(self.url)
        if size > MAX_HEAD:
            self._refuse(431, "headers_too_large", "The request's headers are too large.")
            return
        if self.parser.wishes():
            return
        super().on_headers_complete()
        # The request has its headers. Trailers, which nobody in front of us may have looked at, go
        # where nobody looks.
        self.headers = []
        # ASGI's type has only dicts in it; these are ours, for one who gets the scope.
        extensions: dict[str, object] = self.scope["extensions"]  # type: ignore[assignment]
        extensions[CONNECTION] = Client(self, self.cycle)
        # Behind a CONNECT the parser takes nothing more, so there is nothing to wait for.
        if self.server_state.leaving or self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def read_anew(self, rest: bytes) -> bool:
        """See upgrade.Reader."""
        before = self.parser
        if not before.wishes() or self.transport.is_closing():
            return False
        self.parser = RequestParser(self)
        self.parser.feed_data(
            head_without_wish(
                before.get_method(), self.url, before.get_http_version(), self.headers
            )
            + rest
        )
        return True

    def on_message_complete(self) -> None:
        if self.parser.wishes():
            return
        super().on_message_complete()
        self._stop_body_timer()
        self._completed += 1
        self._in_head = True
        self._head_bytes = 0

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's own words
        if not self.transport.is_closing():
            self._refuse(400, "invalid_http", "This is not a valid HTTP/1.1 request.")

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _set_a_timer(self) -> None:
        """Something has come in; what is still to come is not waited for without an end.

        uvicorn waits for a next request when it has answered one, but no more once anything came:
        the body of the request that was answered, or a line break.
        """
        if self.transport.is_closing():
            return
        if not self._in_head:
            if self._body_timer is None:
                self._body_timer = self.loop.call_later(BODY_SECONDS, self._body_is_late)
        elif self._answered and self._head_timer is None and self.timeout_keep_alive_task is None:
            if self._head_bytes:
                self._head_timer = self.loop.call_later(HEADER_SECONDS, self._head_is_late)
            else:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def on_leaving(self, call: Callable[[], None] | None) -> None:
        """Have this called, once, when the client goes, or has gone already; None for no call."""
        self._leaving = call
        if call is None:
            return
        if self._lost:
            self._leaving = None
            self.loop.call_soon(call)
        else:
            # A connection that is not read does not tell that it has ended.
            self.flow.resume_reading()

    # -- when the process ends -----------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing has come in that is not answered."""
        return self._answered and self._in_head and not self._head_bytes

    @property
    def over(self) -> bool:
        """Whether all is said, and only the peer's goodbye may be missing."""
        transport = self.transport
        return transport.is_closing() and self.idle and not transport.get_write_buffer_size()

    def close_soon(self) -> None:
        """The answer that is due is the last one, and says so. One whose head is gone can't: a
        client that did not hear of it may be sending its next request when it ends."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def close_if_silent(self) -> None:
        """Close an idle connection, unless something has come in that was not read yet."""
        if self.transport.is_closing():
            return
        arrived = select.poll()
        arrived.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        if not arrived.poll(0):
            self.transport.close()

    # -- heads ---------------------------------------------------------------------------------

    def _expect_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._answered:
            self.transport.close()
        else:
            # Closing would cut off the answer before it.
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self._head_is_late)

    # -- bodies --------------------------------------------------------------------------------

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _body_is_late(self) -> None:
        self._body_timer = None
        if self.pipeline or self.flow.read_paused:
            # It is not the client who is late: what it sends is not wanted yet.
            self._body_timer = self.loop.call_later(BODY_SECONDS, self._body_is_late)
        else:
            self.transport.abort()

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = ApiError(status, code, message, type="invalid_request_error").encode()
        reason = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class Client:
    """The connection, as the exchange of one of its requests sees it: exchange.ClientConnection."""

    __slots__ = ("_cycle", "on_leaving")

    def __init__(self, protocol: Protocol, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.on_leaving = protocol.on_leaving

    @property
    def congested(self) -> bool:
        """Whether a write would wait for the client now."""
        return self._cycle.flow.write_paused

    @property
    def body_has_come(self) -> bool:
        """Whether reading the body would not wait for the client."""
        return not self._cycle.more_body

    def write(self, data: bytes) -> bool:
        """Send more of a stream that has begun. False when that can't be done at once: nothing was
        then."""
        # A chunk of no bytes would be the last one.
        return self.write_chunk(b"%x\r\n%b\r\n" % (len(data), data) if data else b"")

    def write_chunk(self, chunk: bytes) -> bool:
        """The same for data that is framed as HTTP's chunk already."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_complete:
            return False
        if not cycle.chunked_encoding:
            return False
        cycle.transport.write(chunk)
        return True

    def answer(self, headers: list[Header], body: bytes) -> bool:
        """Send the whole answer, a 200, in one go. False when that can't be done: nothing was then.

        It is what uvicorn does with two messages, without taking each of them apart.
        """
        cycle = self._cycle
        if cycle.disconnected or cycle.flow.write_paused or cycle.response_started:
            return False
        if not cycle.keep_alive:
            return False
        if cycle.scope["method"] == "HEAD" or _CONTROL.search(b"".join([v for _, v in headers])):
            return False
        lines = [b"%b: %b\r\n" % header for header in chain(cycle.default_headers, headers)]
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(b"".join([STATUS_LINE[200], *lines, b"\r\n", body]))
        cycle.message_event.set()
        cycle.on_response()
        return True
