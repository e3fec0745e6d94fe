"""From the backend's stream to the client: as a stream, or assembled to one answer."""

import asyncio
import time

from . import sse
from .assemble import Assembly
from .chunks import Chunks, dump
from .errors import ApiError, backend_away
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

    def __init__(self, exchange: Exchange, prepared: Prepared, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._prepared = prepared
        self._stall_seconds = settings.stall_timeout_seconds
        self._chunks = Chunks(prepared.style)
        self._splitter = sse.Splitter()
        self._connection: Connection | None = None
        self._heart_beats = False
        self._progress = Watchdog(
            loop,
            max(settings.stall_timeout_seconds, settings.queue_timeout_seconds),
            lambda: exchange.interrupt(Cause.BACKEND_STALLED),
        )
        self._writing = Watchdog(
            loop,
            settings.write_timeout_seconds,
            lambda: exchange.interrupt(Cause.CLIENT_SLOW),
        )
        self._silence = Watchdog(loop, HEARTBEAT_SECONDS, self._beat)

    async def wait(self, place: Place) -> None:
        """Wait in the queue, with a sign of life for a streaming client now and then."""
        if place.ready is None:
            return
        if self._prepared.stream:
            self._silence.start()
            while not place.ready.done():
                await asyncio.wait({place.ready}, timeout=HEARTBEAT_SECONDS)
                await self._keep_alive()
        await place.ready

    async def run(self, upstream: Upstream, body: bytes) -> None:
        """Ask the backend and answer the client. Raises ApiError."""
        exchange = self._exchange
        self._progress.start()
        try:
            self._connection = connection = await upstream.post(
                self._prepared.path,
                body,
                on_overflow=lambda: exchange.interrupt(Cause.CLIENT_SLOW),
            )
        except UnreachableError:
            raise backend_away() from None
        except BrokenError:
            raise backend_broke() from None
        try:
            if connection.status != 200:
                raise await refused(connection)
            if self._prepared.stream:
                await self._stream(connection)
            else:
                await self._whole(connection)
        except BrokenError:
            raise backend_broke() from None
        except sse.EventTooLargeError:
            raise ApiError(
                502, "backend_error", "The model server sent something that can't be read."
            ) from None
        finally:
            self._count()
            upstream.release(connection)

    def close(self) -> None:
        """End the timers."""
        self._progress.stop()
        self._writing.stop()
        self._silence.stop()

    # -- to a stream ---------------------------------------------------------------------------

    async def _stream(self, connection: Connection) -> None:
        exchange, chunks = self._exchange, self._chunks
        self._silence.start()
        while not chunks.done:
            out = []
            for payload in await self._payloads(connection):
                chunk = chunks.read(payload)
                if chunk is not None:
                    out.append(b"data: %b\n\n" % chunk)
            if out:
                await self._write(b"".join(out))
            else:
                await self._keep_alive()
        chunks.check_end()
        closing = [sse.event(dump(chunk)) for chunk in chunks.closing()]
        await self._finish(connection)
        self._count()
        if not exchange.started:
            await exchange.start_stream()
        self._writing.start()
        await exchange.end_stream(b"".join([*closing, sse.DONE]))

    async def _write(self, data: bytes) -> None:
        """Give the client more, for as long as a slow reader may take."""
        self._writing.start()
        if not self._exchange.started:
            await self._exchange.start_stream()
        await self._exchange.write(data)
        self._writing.rest()
        self._silence.touch()

    def _beat(self) -> None:
        self._heart_beats = True
        if self._connection is not None:
            self._connection.wake()

    async def _keep_alive(self) -> None:
        """Tell a client that has heard nothing for a while that it is still waited for. From then
        on the status is 200, and an error can only be an event."""
        if self._heart_beats:
            self._heart_beats = False
            await self._write(sse.KEEP_ALIVE)

    # -- to one answer -------------------------------------------------------------------------

    async def _whole(self, connection: Connection) -> None:
        chunks = self._chunks
        assembly = Assembly(chunks)
        while not chunks.done:
            for payload in await self._payloads(connection):
                chunk = chunks.parse(payload)
                if chunk is not None:
                    assembly.add(chunk)
        chunks.check_end()
        await self._finish(connection)
        answer = dump(assembly.document())
        self._count()
        await self._exchange.respond(200, answer)

    # -- from the backend ----------------------------------------------------------------------

    async def _payloads(self, connection: Connection) -> list[bytes]:
        """The next events; [] when woken without any. ApiError when there will be none."""
        data = connection.take()
        if not data:
            if connection.complete:
                raise ApiError(
                    502,
                    "backend_incomplete",
                    "The model server ended the answer before it was complete.",
                )
            await connection.wait()
            data = connection.take()
        payloads = self._splitter.feed(data) if data else []
        if payloads:
            exchange = self._exchange
            if exchange.ttft_seconds is None:
                exchange.ttft_seconds = time.perf_counter() - exchange.started_at
                self._progress.shorten(self._stall_seconds)
            self._progress.touch()
        return payloads

    async def _finish(self, connection: Connection) -> None:
        """Let the backend end its answer, so that the connection can be used again."""
        self._progress.rest()
        if connection.complete:
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                while not connection.complete:
                    await connection.wait()
                    connection.take()
        except (TimeoutError, BrokenError):
            return

    def _count(self) -> None:
        usage = self._chunks.usage
        if usage is not None:
            self._exchange.prompt_tokens = usage.prompt_tokens
            self._exchange.completion_tokens = usage.completion_tokens


def backend_broke() -> ApiError:
    """502: the backend went away in the middle."""
    return ApiError(
        502, "backend_error", "The model server broke off while it worked on this request."
    )


async def refused(connection: Connection) -> ApiError:
    """The error for a status that is not 200. The backend's words are read, not passed on."""
    if connection.status == 401:
        return ApiError(502, "backend_error", "The model server does not accept this proxy's key.")
    return ApiError(502, "backend_error", "The model server failed on this request.")
