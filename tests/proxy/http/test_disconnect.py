"""A client that leaves frees its place at once, in every phase, with a real model server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.backend import running_backend
from support.fake_backend import Call, fake_backend
from support.models import script_model
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, running_proxy

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
FREE_SECONDS = 5.0
ENDLESS = 60_000
"""Tokens that take minutes, so that nothing is free in time because an answer ended by itself."""


@pytest.fixture(scope="module")
def proxy(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory, models_folder: Path
) -> Iterator[Proxy]:
    """A proxy whose model has room for that many."""
    with running_backend(script_model(models_folder), n_ctx=65_536) as backend:
        models = [model_entry("script", backend.url, n_ctx=65_536, max_tokens=ENDLESS)]
        with running_proxy(postgres, tmp_path_factory.mktemp("disconnect"), models) as proxy:
            yield proxy


def ask(text: str = "LOOP", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "script", "messages": messages, "max_tokens": ENDLESS, **more}


class Client:
    """One request on a connection of its own, which can be dropped at any time."""

    def __init__(self, proxy: Proxy, key: str) -> None:
        self._proxy = proxy
        self._key = key

    async def send(self, body: dict[str, Any], path: str = CHAT) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._proxy.port)
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def read_until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(30):
            seen = b""
            while mark not in seen:
                data = await self.reader.read(65536)
                assert data, seen
                seen += data
            return seen

    def drop(self) -> None:
        self.writer.transport.abort()


async def running(proxy: Proxy, model: str = "script") -> float:
    return await asyncio.to_thread(proxy.metric, "llamakit_running", model=model)


async def until(proxy: Proxy, count: int, model: str = "script", name: str = "running") -> float:
    """Seconds until so many run (or wait)."""
    start = time.monotonic()
    while await asyncio.to_thread(proxy.metric, f"llamakit_{name}", model=model) != count:
        assert time.monotonic() - start < 20
        await asyncio.sleep(0.02)
    return time.monotonic() - start


@pytest.fixture(autouse=True)
async def idle(proxy: Proxy) -> AsyncIterator[None]:
    await until(proxy, 0)
    yield
    await until(proxy, 0)


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("stream", [True, False])
async def test_in_the_middle(proxy: Proxy, key: str, stream: bool, path: str) -> None:
    client = Client(proxy, key)
    body = ask(stream=stream)
    if path == RESPONSES:
        body = {"model": "script", "input": "LOOP", "max_output_tokens": ENDLESS, "stream": stream}
    await client.send(body, path)
    if stream:
        await client.read_until(b" ding")
    else:
        await until(proxy, 1)
        await asyncio.sleep(0.3)
    client.drop()
    assert await until(proxy, 0) < FREE_SECONDS
    # The model itself is free as well: it answers the next one at once.
    start = time.monotonic()
    async with proxy.client(key) as http:
        response = await http.post(CHAT, json=ask("hello"))
    assert response.status_code == 200
    assert time.monotonic() - start < FREE_SECONDS


@pytest.mark.parametrize("stream", [True, False])
async def test_in_the_queue(proxy: Proxy, key: str, stream: bool) -> None:
    first, second = Client(proxy, key), Client(proxy, proxy.new_key())
    await first.send(ask(stream=True))
    await first.read_until(b" tick")
    await second.send(ask(stream=stream))
    await until(proxy, 1, name="queued")
    second.drop()
    assert await until(proxy, 0, name="queued") < FREE_SECONDS
    # Who was being served has noticed nothing.
    await first.read_until(b" dong")
    assert await running(proxy) == 1
    first.drop()


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_token(proxy: Proxy, key: str, stream: bool) -> None:
    gone: list[float] = []
    asked = asyncio.Event()

    async def silent(call: Call) -> None:
        asked.set()
        gone.append(await call.gone())

    async with fake_backend(silent) as fake:
        await asyncio.to_thread(proxy.route, "silent", fake.url)
        client = Client(proxy, key)
        await client.send(ask(stream=stream, model="silent", max_tokens=5))
        await asyncio.wait_for(asked.wait(), 5)
        start = time.monotonic()
        client.drop()
        while not gone:
            assert time.monotonic() - start < FREE_SECONDS
            await asyncio.sleep(0.01)
        print(f"\nbackend connection closed {1000 * (time.monotonic() - start):.0f} ms after")
        assert await until(proxy, 0, "silent") < FREE_SECONDS


async def test_during_an_embedding(proxy: Proxy, key: str) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def silent(call: Call) -> None:
        asked.set()
        await call.gone()
        gone.set()

    async with fake_backend(silent) as fake:
        await asyncio.to_thread(proxy.route, "quiet", fake.url, kind="embedding")
        client = Client(proxy, key)
        await client.send({"model": "quiet", "input": "x"}, "/v1/embeddings")
        await asyncio.wait_for(asked.wait(), 5)
        client.drop()
        await asyncio.wait_for(gone.wait(), FREE_SECONDS)


async def test_while_sending_the_body(proxy: Proxy, key: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        "content-type: application/json\r\ncontent-length: 500\r\n\r\n{".encode()
    )
    await asyncio.sleep(0.2)
    writer.transport.abort()
    del reader
    start = time.monotonic()
    while await asyncio.to_thread(proxy.metric, "llamakit_in_flight"):
        assert time.monotonic() - start < FREE_SECONDS
        await asyncio.sleep(0.02)


async def test_hundreds_that_leave_lose_no_place(proxy: Proxy, key: str) -> None:
    keys = [key, *(proxy.new_key() for _ in range(4))]

    async def leave(number: int) -> None:
        client = Client(proxy, keys[number % 5])
        await client.send(ask(stream=number % 2 == 0))
        await asyncio.sleep(number % 7 * 0.01)
        client.drop()

    for batch in range(0, 300, 20):
        await asyncio.gather(*(leave(number) for number in range(batch, batch + 20)))
    assert await until(proxy, 0) < 5
    assert await asyncio.to_thread(proxy.metric, "llamakit_queued", model="script") == 0
    assert await asyncio.to_thread(proxy.metric, "llamakit_in_flight") == 0
    async with proxy.client(key) as http:
        assert (await http.post(CHAT, json=ask("hello"))).status_code == 200


async def test_streams_of_two_users_never_cut_each_other(proxy: Proxy) -> None:
    async def stream(number: int) -> str:
        async with proxy.openai(proxy.new_key()) as client:
            answer: Any = await client.chat.completions.create(**ask(stream=True, max_tokens=200))
            chunks = [chunk async for chunk in answer]
            assert chunks[-1].choices[0].finish_reason == "length", number
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    async def disturb() -> None:
        async with proxy.client(proxy.new_key()) as client:
            for _ in range(20):
                await client.get("/v1/models")
                await client.get("/readyz")
                await asyncio.sleep(0.02)

    *texts, _ = await asyncio.gather(*(stream(number) for number in range(6)), disturb())
    assert set(texts) == {" tick tock ding dong" * 50}


async def test_one_user_can_not_keep_the_others_waiting(proxy: Proxy) -> None:
    greedy, modest = proxy.new_key("greedy"), proxy.new_key("modest")
    finished: list[str] = []

    async def one(key: str, name: str) -> int:
        async with proxy.client(key) as client:
            response = await client.post(CHAT, json=ask(max_tokens=300))
        finished.append(name)
        return response.status_code

    flood = [asyncio.create_task(one(greedy, "greedy")) for _ in range(12)]
    await until(proxy, 11, name="queued")
    assert await one(modest, "modest") == 200
    # One was running, one more of the flood may have been next.
    assert finished.count("greedy") <= 3
    assert await asyncio.gather(*flood) == [200] * 12
