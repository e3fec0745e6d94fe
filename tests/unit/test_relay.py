"""Chunks on their way from the backend's connection to the client's, moment by moment."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llamakit_proxy.chunks import Style
from llamakit_proxy.exchange import Exchange
from llamakit_proxy.queue import Place
from llamakit_proxy.relay import Relay
from llamakit_proxy.routes import Backend
from llamakit_proxy.settings import from_values
from llamakit_proxy.upstream import Connection, Upstream
from llamakit_proxy.validate.prepared import Prepared
from support.fake_backend import chunked

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
        self.heard = asyncio.Event()
        self.as_they_came = 0

    async def start_stream(self, _last_event: object) -> None:
        self.started = True

    def write_at_once(self, data: bytes) -> bool:
        if self.congested:
            return False
        self.got += data
        return True

    def write_chunk(self, chunk: bytes, size: int) -> bool:
        length, _, data = chunk.partition(b"\r\n")
        assert int(length, 16) == size == len(data) - 2
        self.as_they_came += 1
        return self.write_at_once(data[:-2])

    @property
    def connection(self) -> "SlowClient":
        return self

    async def write(self, data: bytes) -> None:
        if self.congested:
            await asyncio.Event().wait()
        self.got += data
        self.heard.set()


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


def event(text: str, reason: str | None = None) -> bytes:
    """A piece of the answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    document = json.dumps({"id": "c", "choices": [choice]}, ensure_ascii=False)
    return b"data: %b\n\n" % document.encode()


def chunk(text: str, reason: str | None = None) -> bytes:
    return chunked(event(text, reason))


END = chunk("", "stop") + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def make_relay(client: SlowClient) -> Relay:
    prepared = Prepared("/v1/chat/completions", {}, Style(chat=True), stream=True)
    settings = from_values({"LLAMA_PROXY_ROUTES": "/r", "LLAMAKIT_SECRETS_DIR": "/s"})
    return Relay(cast(Exchange, client), prepared, b"", settings)


async def begun(relay: Relay, backend: OneConnection, text: str) -> asyncio.Task[None]:
    """The relay at work, once the client has the first piece, this one."""
    asked = asyncio.create_task(relay.run(backend, lambda: None))
    await asyncio.sleep(0)
    backend.connection.data_received(chunk(text))
    for _ in range(3):
        await asyncio.sleep(0)
    return asked


def texts_of(stream: bytes) -> list[str]:
    events = stream.decode().removeprefix("data: ").strip().split("\n\ndata: ")
    return [json.loads(event)["choices"][0]["delta"]["content"] for event in events]


async def test_a_place_that_is_ready_waits_for_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does its heartbeat, while others could have the place."""
    monkeypatch.setattr("llamakit_proxy.relay.HEARTBEAT_SECONDS", 0.01)
    client = SlowClient()
    relay = make_relay(client)
    ready = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(relay.wait(cast(Place, SimpleNamespace(ready=ready))))
    await asyncio.wait_for(client.heard.wait(), 5)
    client.congested = True
    await asyncio.sleep(0.05)
    ready.set_result(None)
    await asyncio.wait_for(waiting, 5)
    relay.close()


async def test_what_waits_for_the_client_goes_before_what_comes_after() -> None:
    client, backend = SlowClient(), OneConnection()
    relay = make_relay(client)
    asked = await begun(relay, backend, "one")
    assert b"one" in client.got
    # All of this comes before the task has its turn.
    backend.connection.data_received(chunk("two"))
    client.congested = True
    backend.connection.data_received(chunk("three"))
    client.congested = False
    backend.connection.data_received(chunk("four"))
    backend.connection.data_received(END)
    await asked
    relay.close()
    assert texts_of(client.got) == ["one", "two", "three", "four"]
    assert relay.committed


async def test_events_go_on_whole_whatever_pieces_they_come_in() -> None:
    client, backend = SlowClient(), OneConnection()
    relay = make_relay(client)
    asked = await begun(relay, backend, "first")
    whole, torn, separated = event("whole"), event("data: torn"), event("a\u2028b")
    # Both halves begin as an event does.
    border = torn.rindex(b"data: ")
    for piece in (whole, torn[:border], torn[border:], whole + torn, separated, whole):
        backend.connection.data_received(chunked(piece))
    expected = [event("first"), whole, torn, whole, torn, separated, whole]
    assert client.got == b"".join(expected).replace("\u2028".encode(), b"\\u2028")
    assert client.generated == len(expected)
    # Not the first one, the torn one, the two in one chunk, and the one with a separator in it.
    assert client.as_they_came == 2
    backend.connection.data_received(END)
    await asked
    relay.close()


async def test_what_looks_like_a_chunk_in_the_middle_of_one_is_none() -> None:
    client, backend = SlowClient(), OneConnection()
    relay = make_relay(client)
    asked = await begun(relay, backend, "first")
    inner = chunk("inner")
    for data in (chunked(event("x") + inner + event("y")), chunked(event("x") + inner)):
        cut = data.index(inner)
        backend.connection.data_received(data[:cut])
        backend.connection.data_received(inner)
        if data[cut + len(inner) :]:
            backend.connection.data_received(data[cut + len(inner) :])
        assert client.as_they_came == 0
    asked.cancel()
    await asyncio.wait({asked})
    relay.close()


async def test_after_pieces_the_next_chunk_goes_as_it_comes() -> None:
    client, backend = SlowClient(), OneConnection()
    relay = make_relay(client)
    asked = await begun(relay, backend, "first")
    torn = chunk("torn")
    backend.connection.data_received(torn[:7])
    backend.connection.data_received(torn[7:] + chunk("with it"))
    assert client.as_they_came == 0
    backend.connection.data_received(chunk("next"))
    assert client.as_they_came == 1
    backend.connection.data_received(END)
    await asked
    relay.close()
    assert texts_of(client.got) == ["first", "torn", "with it", "next"]


async def test_the_second_half_of_a_length_is_no_length() -> None:
    client, backend = SlowClient(), OneConnection()
    relay = make_relay(client)
    asked = await begun(relay, backend, "first")
    backend.connection.data_received(chunk("whole"))
    assert client.as_they_came == 1
    # Of a chunk of 4,096 bytes more than there are here, which is the digit that comes first.
    backend.connection.data_received(b"1")
    backend.connection.data_received(chunk("z" * 500))
    assert client.as_they_came == 1
    asked.cancel()
    await asyncio.wait({asked})
    relay.close()
