"""Whose turn it is, with a real model server and with backends that show the order."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llamakit_proxy import users
from llamakit_proxy.keys import PREFIX
from support.backend import Backend
from support.fake_backend import DONE, END, HEAD, Call, delta, fake_backend, usage
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, running_proxy

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def proxy(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory, chat_backend: Backend
) -> Iterator[Proxy]:
    """A proxy in whose queue a whole flood may wait."""
    models = [model_entry("script", chat_backend.url)]
    with running_proxy(
        postgres, tmp_path_factory.mktemp("scheduling"), models, LLAMA_PROXY_QUEUE_LIMIT="500"
    ) as proxy:
        yield proxy


def ask(model: str, text: str = "LOOP", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


async def queued(proxy: Proxy, model: str, count: int) -> None:
    """Until so many wait."""
    start = time.monotonic()
    while await asyncio.to_thread(proxy.metric, "llamakit_queued", model=model) < count:
        assert time.monotonic() - start < 30
        await asyncio.sleep(0.02)


async def test_a_flood_holds_up_nobody(proxy: Proxy) -> None:
    """One user has 100 requests waiting, nine others send one each: with turns that go round, each
    of them is served after two of the flood's at most."""
    flooder, *others = [proxy.new_key() for _ in range(10)]
    request = ask("script", max_tokens=40)
    async with contextlib.AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None)
        flood = await stack.enter_async_context(proxy.client(flooder, limits=limits))
        clients = [await stack.enter_async_context(proxy.client(key)) for key in others]
        for client in (flood, *clients):
            # Their keys are known then, and asked of Postgres no more.
            assert (await client.get("/v1/models")).status_code == 200
        tasks = [asyncio.create_task(flood.post(CHAT, json=request)) for _ in range(100)]
        await queued(proxy, "script", 60)
        tasks += [asyncio.create_task(client.post(CHAT, json=request)) for client in clients]
        for answer in await asyncio.gather(*tasks):
            assert answer.status_code == 200
    rows = [row for row in await asyncio.to_thread(proxy.rows, 119) if row["path"] == CHAT]
    begun = {
        row["request_id"]: row["created_at"].timestamp() + row["queue_ms"] / 1000 for row in rows
    }
    counts = Counter(row["username"] for row in rows)
    (flooding,) = (name for name, count in counts.items() if count == 100)
    assert len(counts) == 10
    floods = [begun[row["request_id"]] for row in rows if row["username"] == flooding]
    for row in rows:
        if row["username"] != flooding:
            start = begun[row["request_id"]]
            before = sum(start - row["queue_ms"] / 1000 < other < start for other in floods)
            # One more, because the row's time is that of its arrival, a moment before its wait.
            assert before <= 3, f"{before} of the flood's went before it"


class Line:
    """A backend that answers one request at a time, when it is told to, and notes whose it was."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.go = asyncio.Event()

    async def answer(self, call: Call) -> None:
        await self.go.wait()
        self.order.append(call.body["messages"][0]["content"])
        await call.send(HEAD, delta("one"), delta("", "stop"), usage(1, 1), DONE, END)


async def order_of(proxy: Proxy, requests: list[tuple[str, str]]) -> list[str]:
    """The texts of (key, text) in the order in which they are served, when they wait together."""
    held = Line()
    async with fake_backend(held.answer) as fake, contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(proxy.route, "held", fake.url)
        first = await stack.enter_async_context(proxy.client(proxy.new_key()))
        tasks = [asyncio.create_task(first.post(CHAT, json=ask("held", "first")))]
        await fake.called.wait()
        for number, (key, text) in enumerate(requests, 1):
            client = await stack.enter_async_context(proxy.client(key))
            tasks.append(asyncio.create_task(client.post(CHAT, json=ask("held", text))))
            await queued(proxy, "held", number)
        held.go.set()
        for answer in await asyncio.gather(*tasks):
            assert answer.status_code == 200
    return held.order[1:]


async def test_batch_keys_and_weights(proxy: Proxy) -> None:
    batch, light, heavy = proxy.new_key(priority="batch"), proxy.new_key(), proxy.new_key(weight=2)
    requests = [(key, name) for name, key in (("batch", batch), ("light", light), ("heavy", heavy))]
    order = await order_of(proxy, [each for each in requests for _ in range(4)])
    assert order[-4:] == ["batch"] * 4
    assert Counter(order[:6]) == {"heavy": 4, "light": 2}


async def test_a_change_reaches_the_running_proxy(proxy: Proxy) -> None:
    slow, quick = proxy.new_key(), proxy.new_key()
    async with proxy.client(slow) as client:
        assert (await client.get("/v1/models")).status_code == 200
    with proxy.admin() as connection:
        users.set_priority(connection, slow.removeprefix(PREFIX).partition("-")[0], "batch")
    deadline = time.monotonic() + 20
    requests = [(slow, "slow"), (quick, "quick"), (quick, "quick")]
    while await order_of(proxy, requests) != ["quick", "quick", "slow"]:
        assert time.monotonic() < deadline


async def test_a_client_says_how_long_it_waits(proxy: Proxy) -> None:
    held = Line()
    async with fake_backend(held.answer) as fake, proxy.client(proxy.new_key()) as client:
        await asyncio.to_thread(proxy.route, "held", fake.url)
        task = asyncio.create_task(client.post(CHAT, json=ask("held")))
        await fake.called.wait()
        for seconds in ("0", "0.2"):
            headers = {"X-Queue-Timeout": seconds}
            answer = await client.post(CHAT, json=ask("held"), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_timeout")
            assert f"within {seconds} seconds" in answer.text
        for seconds in ("soon", "-1", "nan", ""):
            headers = {"X-Queue-Timeout": seconds}
            answer = await client.post(CHAT, json=ask("held"), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
        held.go.set()
        assert (await task).status_code == 200
        answer = await client.post(CHAT, json=ask("held"), headers={"X-Queue-Timeout": "inf"})
        assert answer.status_code == 200


async def test_a_conversation_goes_back_to_its_backend(proxy: Proxy) -> None:
    async def good(call: Call) -> None:
        await call.send(HEAD, delta("one"), delta("", "stop"), usage(1, 1), DONE, END)

    key = proxy.new_key()
    async with fake_backend(good) as one, fake_backend(good) as two, proxy.client(key) as client:
        backends = [{"url": each.url, "api_key_secret": None} for each in (one, two)]
        await asyncio.to_thread(proxy.route, "pair", one.url, backends=backends)
        for turn in range(4):
            for name in ("x", "y"):
                body = ask("pair", f"I am {name}")
                body["messages"] += [{"role": "assistant", "content": "go on"}] * turn
                assert (await client.post(CHAT, json=body)).status_code == 200
        seen = [{call.body["messages"][0]["content"] for call in each.calls} for each in (one, two)]
        assert seen in ([{"I am x"}, {"I am y"}], [{"I am y"}, {"I am x"}])
