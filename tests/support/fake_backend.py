"""A backend that misbehaves on purpose: it answers with exactly the bytes a test wants.

For faults alone; everything a real llama_cpp.server can show is tested with one.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(text: str, finish: str | None = None) -> bytes:
    """One chat chunk as the model server writes it, as a piece of a chunked body."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "delta": {"content": text} if finish is None else {},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
    }
    return chunked(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def usage(prompt: int, completion: int) -> bytes:
    """The chunk with the usage, as a piece of a chunked body."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
    }
    return chunked(b"data: " + json.dumps(chunk).encode() + b"\n\n")


DONE = chunked(b"data: [DONE]\n\n")

Answer = Callable[["Call"], Awaitable[None]]


class Call:
    """One request that came in, and the connection to answer it on."""

    def __init__(
        self,
        headers: dict[str, str],
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.headers = headers
        self.body = body
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send bytes as they are."""
        for piece in pieces:
            self._writer.write(piece)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def gone(self, seconds: float = 10) -> float:
        """Until the proxy closes the connection; how long that took."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(seconds):
                while await self._reader.read(4096):
                    continue
        return loop.time() - start


async def three_and_wait(call: Call) -> None:
    """An answer of three tokens that does not end before the client leaves."""
    await call.send(HEAD, delta("a"), delta("b"), delta("c"))
    await call.gone(60)


class Paused:
    """For answers that stop in the middle until they may go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await call.send(HEAD, delta("one"))
        await self.go_on.wait()
        await call.send(delta("two"), delta("", "stop"), usage(1, 2), DONE, END)


class FakeBackend:
    """A server whose every request is answered by ``answer``."""

    def __init__(self, answer: Answer, port: int) -> None:
        self.answer = answer
        self.port = port
        self.calls: list[Call] = []
        self.called = asyncio.Event()
        self.connections = 0
        """Connections over which something was asked: readiness only connects."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        asked = False
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    headers = dict(
                        line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line
                    )
                    body = await reader.readexactly(int(headers["content-length"]))
                    self.connections += not asked
                    asked = True
                    call = Call(headers, json.loads(body), reader, writer)
                    self.calls.append(call)
                    self.called.set()
                    await self.answer(call)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def fake_backend(answer: Answer, port: int = 0) -> AsyncIterator[FakeBackend]:
    """A server on a free port, unless one is given."""
    fake = FakeBackend(answer, port)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(fake.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
