"""A TCP relay in front of a server, whose answers a test can hold back or cut off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Forwards 127.0.0.1:``port`` to another port, in both directions."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self._hold_from: bytes | None = None
        self.holding = asyncio.Event()
        """Set when an answer waits."""

    def hold_answers(self, containing: bytes) -> None:
        """From the first answer with these bytes on, answers wait; requests still go through."""
        self._hold_from = containing
        self.holding.clear()

    def release_answers(self) -> None:
        self._hold_from = None
        self._flowing.set()

    def cut(self) -> None:
        """Drop all connections; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream}
        for task in (
            asyncio.create_task(self._copy(reader, upstream, held=False)),
            asyncio.create_task(self._copy(upstream_reader, writer, held=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if held:
                    if self._hold_from is not None and self._hold_from in data:
                        self._flowing.clear()
                        self.holding.set()
                    await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)


@contextlib.asynccontextmanager
async def relay_to(target_port: int) -> AsyncIterator[Relay]:
    """A running relay."""
    relay = Relay(target_port)
    server = await asyncio.start_server(relay._serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.cut()
        for task in list(relay._tasks):
            task.cancel()
        await asyncio.gather(*relay._tasks, return_exceptions=True)
        await asyncio.sleep(0)
