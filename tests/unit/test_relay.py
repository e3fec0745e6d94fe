"""Chunks on their way from the backend's connection to the client's, moment by moment."""

import asyncio
import json
from typing import Any, cast

from llamakit_proxy.chunks import Style
from llamakit_proxy.exchange import Exchange
from llamakit_proxy.relay import Relay
from llamakit_proxy.routes import Backend
from llamakit_proxy.settings import from_values
from llamakit_proxy.upstream import Connection, Upstream
from llamakit_proxy.validate.prepared import Prepared

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class SlowClient:
    """An exchange whose client can be made to wait, and what it got."""

    started = False
    generated = 0
    ttft_seconds: float | None = None
    started_at = 0.0

    def __init__(self) -> None:
        self.congested = False
        self.got = b""

    async def start_stream(self, _last_event: object) -> None:
        self.started = True

    def write_at_once(self, data: bytes) -> bool:
        if self.congested:
            return False
        self.got += data
        return True

    async def write(self, data: bytes) -> None:
        self.got += data


class Nowhere(asyncio.Transport):
    """Takes everything."""

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass


class OneConnection(Upstream):
    """A backend whose connection the test speaks through."""

    def __init__(self) -> None:
        super().__init__(Backend("http://127.0.0.1:1", "127.0.0.1", 1, 1, "llama_cpp"))
        self.connection = Connection()
        self.connection.connection_made(Nowhere())

    async def post(self, *_: Any, **__: Any) -> Connection:
        self.connection.ask(b"", 1 << 20, None)
        self.connection.data_received(HEAD)
        return self.connection


def chunk(text: str, reason: str | None = None) -> bytes:
    """A piece of the answer, in the framing of HTTP."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    data = b"data: %b\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_what_waits_for_the_client_goes_before_what_comes_after() -> None:
    client, backend = SlowClient(), OneConnection()
    prepared = Prepared("/v1/chat/completions", {}, Style(chat=True), stream=True)
    settings = from_values({"LLAMA_PROXY_ROUTES": "/r", "LLAMAKIT_SECRETS_DIR": "/s"})
    relay = Relay(cast(Exchange, client), prepared, b"", settings)
    asked = asyncio.create_task(relay.run(backend, lambda: None))
    await asyncio.sleep(0)
    backend.connection.data_received(chunk("one"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert b"one" in client.got
    # All of this comes before the task has its turn.
    backend.connection.data_received(chunk("two"))
    client.congested = True
    backend.connection.data_received(chunk("three"))
    client.congested = False
    backend.connection.data_received(chunk("four"))
    end = chunk("", "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    backend.connection.data_received(end)
    await asked
    relay.close()
    texts = [
        json.loads(event)["choices"][0]["delta"]["content"]
        for event in client.got.decode().removeprefix("data: ").strip().split("\n\ndata: ")
    ]
    assert texts == ["one", "two", "three", "four"]
    assert relay.committed
