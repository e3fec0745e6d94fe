"""From the backend's stream to the client: as a stream, or assembled to one answer."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from . import sse, wire
from .assemble import Assembly
from .chunks import Chunks, unreadable
from .circuit import Failure
from .errors import ApiError, BackendError, backend_away
from .exchange import Cause, Exchange
from .queue import Place
from .settings import Settings
from .upstream import BrokenError, Connection, UnreachableError, Upstream
from .validate.prepared import Prepared
from .watchdog import Watchdog

HEARTBEAT_SECONDS = 15.0
END_SECONDS = 1.0


class Relay:
    """One generation: asked of a backend, read to its end, given to the client.

    The first token has as long as a place in the queue may take: a backend may be reading a long
    prompt, or finishing one whose reader has left. After it the stall timeout holds.
    """

    def __init__(
        self, exchange: Exchange, prepared: Prepared, body: bytes, settings: Settings
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._prepared = prepared
        self._body = body
        self._stall_seconds = settings.stall_timeout_seconds
        self._first_seconds = max(settings.stall_timeout_seconds, settings.queue_timeout_seconds)
        self._connection: Connection | None = None
        self._begun: Callable[[], None] = _nothing
        self._attempted = False
        self.committed = False
        """Whether the client has something of the answer."""
        self.stalled = False
        """Whether the request was cut short because this one's backend gave nothing."""
        self._heart_beats = False
        self._rest = b""
        self._progress = Watchdog(loop, self._first_seconds, self._stall)
        self._silence = Watchdog(loop, HEARTBEAT_SECONDS, self._beat)
        self._read_anew()

    def _read_anew(self) -> None:
        """Nothing of an answer has come."""
        self._chunks = Chunks(self._prepared.style)
        self._assembly = Assembly(self._chunks)
        self._writer = self._prepared.writer(self._chunks)
        self._splitter = sse.Splitter()
        self._held: tuple[bytes, ApiError | None] | None = None
        """What has been translated, and could not be passed on at once."""

    @property
    def request(self) -> dict[str, Any]:
        """What is asked of a backend."""
        return self._prepared.document

    async def wait(self, place: Place) -> None:
        """Wait in the queue, with a sign of life for a streaming client now and then."""
        if place.ready is None:
            return
        if self._prepared.stream:
            while not (await asyncio.wait({place.ready}, timeout=HEARTBEAT_SECONDS))[0]:
                # Who has not read the last sign of life needs no other, and is not waited for.
                if not self._exchange.connection.congested:
                    await self._write(sse.KEEP_ALIVE)
        await place.ready

    async def run(self, upstream: Upstream, begun: Callable[[], None]) -> None:
        """Ask the backend and read its answer to the end; a streaming client has all of it but
        the last then. Calls ``begun`` at the first token. Raises ApiError."""
        exchange = self._exchange
        if self._attempted:
            # Another backend failed, perhaps in the middle: nothing it said counts.
            self._read_anew()
            self._progress.allow(self._first_seconds)
        self._attempted = True
        self._begun = begun
        self._progress.start()
        try:
            self._connection = connection = await upstream.post(
                self._prepared.path,
                self._body,
                on_overflow=lambda: exchange.interrupt(Cause.CLIENT_SLOW),
            )
        except UnreachableError:
            self._progress.rest()
            raise backend_away() from None
        except BrokenError:
            self._progress.rest()
            raise backend_broke() from None
        try:
            if connection.status != 200:
                raise refused(connection)
            if self._prepared.stream:
                await self._stream(connection)
            else:
                await self._whole(connection)
            await self._finish(connection)
        except BrokenError:
            raise backend_broke() from None
        except sse.EventTooLargeError:
            raise unreadable() from None
        finally:
            self._progress.rest()
            self._connection = None
            self._count()
            upstream.release(connection)

    async def deliver(self) -> None:
        """Give the client the rest. The backend is done by now: its place can be another's."""
        exchange = self._exchange
        if not self._prepared.stream:
            answer = self._writer.whole(self._assembly.document())
            await exchange.respond(200, wire.encode_leniently(answer))
            return
        if not exchange.started:
            await exchange.start_stream(self._last_words)
        await exchange.end_stream(self._rest + self._writer.end)

    def close(self) -> None:
        """End the timers."""
        self._progress.stop()
        self._silence.stop()

    # -- to a stream ---------------------------------------------------------------------------

    async def _stream(self, connection: Connection) -> None:
        chunks = self._chunks
        self._silence.start()
        connection.on_data = self._pass_on
        while not chunks.done:
            out, error = await self._translated(connection)
            if error is not None and not self._exchange.started:
                raise error
            if out:
                # While the client takes its time, the backend can't be called slow.
                self._progress.rest()
                self.committed = True
                await self._write(out)
                self._progress.start()
                if self._writer.verbatim:
                    connection.on_chunk = self._pass_chunk
            elif self._heart_beats:
                # From here on the status is 200, and an error can only be an event.
                await self._write(sse.KEEP_ALIVE)
            if error is not None:
                raise error
        connection.on_data = connection.on_chunk = None
        chunks.check_end()
        self._rest = self._writer.closing()

    async def _translated(self, connection: Connection) -> tuple[bytes, ApiError | None]:
        """The next events as the client gets them: those first that could not be passed on."""
        await self._wait_for_more(connection)
        if self._held is not None:
            held, self._held = self._held, None
            return held
        return self._translate(self._split(connection.take()))

    def _pass_chunk(self, data: bytes) -> bool:
        """Give the client what has come as it is, framing and all, if it is one chunk with one
        ordinary event: nearly all that comes."""
        exchange = self._exchange
        if self._splitter.rest or not self._chunks.is_ordinary(data):
            return False
        size = sse.framed_size(data)
        if not size or not exchange.write_chunk(data, size):
            return False
        exchange.generated += 1
        self._heart_beats = False
        self._progress.touched_at = self._silence.touched_at = self._loop.time()
        return True

    def _pass_on(self) -> bool:
        """Give the client what has come, if that is all there is to do: waking the task, down to
        where it waits, costs as much as everything else about a chunk."""
        connection, exchange = self._connection, self._exchange
        if connection is None or not exchange.started:
            return False
        try:
            out, error = self._translate(self._split(connection.take()))
        except sse.EventTooLargeError:
            out, error = b"", unreadable()
        if error is None and not self._chunks.done and exchange.write_at_once(out):
            if out:
                self.committed = True
                self._wrote()
            return True
        self._held = out, error
        return False

    def _translate(self, payloads: list[bytes]) -> tuple[bytes, ApiError | None]:
        """What the client gets for these events, and the failure they end with, if they do."""
        out: list[bytes] = []
        try:
            for payload in payloads:
                written = self._writer.read(payload)
                if written:
                    out.append(written)
                if self._begun is not _nothing:
                    self._note_first()
        except ApiError as error:
            return b"".join(out), error
        return b"".join(out), None

    async def _write(self, data: bytes) -> None:
        if not self._exchange.started:
            await self._exchange.start_stream(self._last_words)
        await self._exchange.write(data)
        self._wrote()

    def _wrote(self) -> None:
        self._heart_beats = False
        self._silence.touch()

    def _last_words(self, error: ApiError) -> bytes:
        """How the stream ends when it fails, in the words of the attempt that failed."""
        return self._writer.failure(error)

    def _beat(self) -> None:
        """The client has heard nothing for a while."""
        self._heart_beats = True
        if self._connection is not None:
            self._connection.wake()

    # -- to one answer -------------------------------------------------------------------------

    async def _whole(self, connection: Connection) -> None:
        chunks = self._chunks
        while not chunks.done:
            await self._wait_for_more(connection)
            payloads = self._split(connection.take())
            if payloads:
                self._assembly.take(payloads)
                self._note_first()
        chunks.check_end()

    # -- from the backend ----------------------------------------------------------------------

    async def _wait_for_more(self, connection: Connection) -> None:
        """Until something has come, or somebody is to be woken. ApiError when nothing will come."""
        if not connection.has_data:
            if connection.complete:
                raise ApiError(
                    502,
                    "backend_incomplete",
                    "The model server ended the answer before it was complete.",
                )
            await connection.wait()

    def _split(self, data: bytes) -> list[bytes]:
        """The events that are complete with this; often none when woken without any."""
        payloads = self._splitter.feed(data) if data else []
        if payloads:
            self._exchange.generated += len(payloads)
            self._progress.touch()
        return payloads

    def _note_first(self) -> None:
        """The backend has begun to answer."""
        begun, self._begun = self._begun, _nothing
        if begun is not _nothing:
            exchange = self._exchange
            if exchange.ttft_seconds is None:
                exchange.ttft_seconds = time.perf_counter() - exchange.started_at
            self._progress.allow(self._stall_seconds)
            begun()

    async def _finish(self, connection: Connection) -> None:
        """Let the backend end its answer, so that the connection can be used again."""
        self._progress.stop()
        self._silence.stop()
        if connection.complete:
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                while not connection.complete:
                    await connection.wait()
                    connection.take()
        except (TimeoutError, BrokenError):
            return

    def _stall(self) -> None:
        self.stalled = True
        self._exchange.interrupt(Cause.BACKEND_STALLED)

    def _count(self) -> None:
        usage = self._chunks.usage
        if usage is not None:
            self._exchange.prompt_tokens = usage.prompt_tokens
            self._exchange.completion_tokens = usage.completion_tokens


def backend_broke() -> BackendError:
    """502: the backend went away in the middle."""
    return BackendError(
        Failure.BROKEN,
        502,
        "backend_error",
        "The model server broke off while it worked on this request.",
    )


def refused(connection: Connection) -> BackendError:
    """The error for a status that is not 200. The backend's own words are not passed on."""
    if connection.status == 503:
        # It loads its model, or has no slot: as good as not there.
        return backend_away()
    message = "The model server failed on this request."
    if connection.status == 401:
        message = "The model server does not accept this proxy's key."
    elif connection.status == 404:
        message = "The model server has another model than the one that was asked for."
    return BackendError(Failure.REFUSED, 502, "backend_error", message)


def _nothing() -> None:
    """The first token is known already."""
