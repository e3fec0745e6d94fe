"""A small HTTP/1.1 client for the backends: POST a JSON body, read the answer as it comes.

It keeps connections alive, never half-closes one, and reads what a backend sends as fast as it
sends it, because a reader that stalls holds up the backend for everyone.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from .routes import Backend

CONNECT_TIMEOUT_SECONDS = 5.0
IDLE_SECONDS = 4.0
"""llama_cpp.server closes an idle connection after 5 seconds; one older than this is not used."""
MAX_BUFFERED = 4 << 20
MAX_IDLE_CONNECTIONS = 64


class UpstreamError(Exception):
    """The backend could not be used. The text is for the log, never for a client."""


class UnreachableError(UpstreamError):
    """No connection to the backend: nothing was asked of it."""


class BrokenError(UpstreamError):
    """The connection ended, or what came over it was not HTTP, before the answer was complete."""


class Connection(asyncio.Protocol):
    """One connection, and the one answer that is being read from it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: str | None = "the connection is not open"
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        """httptools calls this for each piece of a body: the list itself, no step between."""
        self._buffered = 0
        self._limit = MAX_BUFFERED
        self._on_overflow: Callable[[], None] | None = None
        self.on_data: Callable[[], bool] | None = None
        """Called when something has come for one who waits, and more will; True when that is dealt
        with, and who waits need not be woken."""
        self.on_chunk: Callable[[bytes], bool] | None = None
        """Called before that with what has come where a chunk of HTTP's begins; True when it was
        one whole chunk, and is dealt with. Taking it apart would cost as much as passing it on."""
        self._between_chunks = False
        self._parser: httptools.HttpResponseParser | None = None
        self._keep_alive = False
        self.touched = False
        """Whether anything of the present answer has come."""
        self.status = 0
        self.complete = False
        self.idle_since = 0.0

    # -- for one answer ---------------------------------------------------------------------

    def ask(self, data: bytes, limit: int, on_overflow: Callable[[], None] | None) -> None:
        """Send a whole request. More than ``limit`` bytes that nobody takes end the connection,
        after ``on_overflow`` was called."""
        self._parser = httptools.HttpResponseParser(self)
        self._pieces.clear()
        self._buffered = 0
        self._limit = limit
        self._on_overflow = on_overflow
        self.on_data = self.on_chunk = None
        self._between_chunks = False
        self.touched = self.complete = self._keep_alive = False
        self.status = 0
        if self._transport is not None:
            self._transport.write(data)

    def take(self) -> bytes:
        """What has come of the body since the last call, maybe nothing. Raises BrokenError."""
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._buffered = 0
            return data
        if self._error is not None and not self.complete:
            raise BrokenError(self._error)
        return b""

    @property
    def has_data(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._pieces)

    async def wait(self) -> None:
        """Until something comes, the answer ends, or ``wake`` is called."""
        if self._pieces or self.complete or self._error is not None:
            return
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def read_all(self) -> bytes:
        """The whole body. Raises BrokenError."""
        pieces = []
        while not self.complete:
            pieces.append(self.take())
            await self.wait()
        pieces.append(self.take())
        return b"".join(pieces)

    def wake(self) -> None:
        """End ``wait`` now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def head(self) -> int:
        """The status, once the headers have come. Raises BrokenError."""
        while not self.status:
            if self._error is not None:
                raise BrokenError(self._error)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.status

    @property
    def reusable(self) -> bool:
        """Whether another request can go over this connection."""
        return self.complete and self._keep_alive and self._error is None

    @property
    def open(self) -> bool:
        return self._error is None

    def close(self) -> None:
        """At once: the backend sees its reader go and stops what it generates."""
        self._error = self._error or "closed"
        self._on_overflow = self.on_data = self.on_chunk = None
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._error = None

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self.complete:
            self._fail("the backend sent something nobody asked for")
            return
        waiter = self._waiter
        if waiter is not None and waiter.done():
            waiter = None
        pass_on = self.on_chunk
        if pass_on is not None and waiter is not None and self._between_chunks and pass_on(data):
            return
        self.touched = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("the backend's answer is not HTTP")
            return
        if not data.endswith(b"\n"):
            # The parser does not tell that the next chunk's length has begun.
            self._between_chunks = False
        self._buffered += len(data)
        if self._buffered > self._limit:
            overflow, self._on_overflow = self._on_overflow, None
            self._fail("the answer was not taken as fast as it came")
            if overflow is not None:
                overflow()
            return
        if waiter is not None and (self.complete or self.on_data is None or not self.on_data()):
            waiter.set_result(None)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._error = self._error or "the backend closed the connection"
        self._transport = None
        self.wake()

    def _fail(self, reason: str) -> None:
        self._error = reason
        if self._transport is not None:
            self._transport.abort()
        self.wake()

    # -- httptools --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            # httptools makes one of its errors of it. The answer that was asked for is not touched.
            raise BrokenError("the backend sent another answer than the one it was asked for")

    def on_headers_complete(self) -> None:
        if self._parser is not None:
            self.status = self._parser.get_status_code()

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        # A message without a length ends with the connection; httptools then never calls this.
        self.complete = True
        if self._parser is not None:
            self._keep_alive = self._parser.should_keep_alive()


class Upstream:
    """The connections to one backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        host = f"[{backend.host}]" if ":" in backend.host else backend.host
        key = f"authorization: Bearer {backend.api_key}\r\n" if backend.api_key else ""
        self._head = (
            f"host: {host}:{backend.port}\r\ncontent-type: application/json\r\n{key}"
        ).encode()
        self._idle: deque[Connection] = deque()

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        limit: int = MAX_BUFFERED,
        on_overflow: Callable[[], None] | None = None,
    ) -> Connection:
        """Send the request; returns the connection once the status is known.

        Whoever called must give the connection to ``release``. Raises UpstreamError.
        """
        head = f"POST {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n".encode()
        data = b"".join((head, self._head, b"\r\n", body))
        connection = self._take_idle()
        if connection is not None:
            # A backend that has just restarted, or just closed the idle connection, shows only
            # now; as long as nothing came back, asking again is safe.
            try:
                return await self._ask(connection, data, limit, on_overflow)
            except BrokenError:
                if connection.touched:
                    raise
        return await self._ask(await self._connect(), data, limit, on_overflow)

    def release(self, connection: Connection) -> None:
        """Keep the connection if its answer was read to the end, close it otherwise."""
        if connection.reusable and len(self._idle) < MAX_IDLE_CONNECTIONS:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close what is idle; what is in use closes when it is released."""
        while self._idle:
            self._idle.pop().close()

    async def reachable(self, seconds: float) -> bool:
        """Whether the backend's port takes connections: it does so once its model is loaded."""
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connect()
        except (UpstreamError, TimeoutError):
            return False
        connection.close()
        return True

    def _take_idle(self) -> Connection | None:
        edge = time.monotonic() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.idle_since > edge:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                _, connection = await loop.create_connection(
                    Connection, self.backend.host, self.backend.port
                )
        except TimeoutError:
            raise UnreachableError(f"{self.backend.url} took no connection in time") from None
        except OSError as error:
            raise UnreachableError(f"{self.backend.url}: {error.strerror or 'no route'}") from None
        return connection

    async def _ask(
        self,
        connection: Connection,
        data: bytes,
        limit: int,
        on_overflow: Callable[[], None] | None,
    ) -> Connection:
        try:
            connection.ask(data, limit, on_overflow)
            await connection.head()
        except BaseException:
            connection.close()
            raise
        return connection
