"""Tokens and budgets: what is set aside for a request, and what it costs in the end."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest

from llamakit_proxy import users
from llamakit_proxy.limits import prompt_estimate
from support.chats import ask
from support.fake_backend import (
    DONE,
    END,
    HEAD,
    Call,
    FakeBackend,
    chunked,
    delta,
    fake_backend,
    three_and_wait,
    usage,
)
from support.processes import wait_for
from support.proxy import Proxy
from support.spent import spent

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"


async def test_tokens_are_reserved_and_settled(pair: list[Proxy]) -> None:
    key = pair[0].new_key("tokens", token_limit=5000, token_window_seconds=600)
    # A seed of ours, because a random one makes the prompt's size, and with it what is reserved,
    # differ from one request to the next.
    body = {**ask(max_tokens=4), "seed": 1}
    async with pair[0].client(key) as client:
        first = await client.post(CHAT, json=body)
        used = first.json()["usage"]["total_tokens"]
        left = int(first.headers["x-ratelimit-remaining-tokens"])
        assert first.headers["x-ratelimit-limit-tokens"] == "5000"
        assert left <= 5000 - used
        stream = await client.post(CHAT, json={**body, "stream": True})
        # Of the first the tokens that it took, of this one as many as it may take.
        assert int(stream.headers["x-ratelimit-remaining-tokens"]) == left - used
        embedding = await client.post("/v1/embeddings", json={"model": "embed", "input": "x"})
        assert embedding.headers["x-ratelimit-limit-tokens"] == "5000"
        assert "x-ratelimit-limit-tokens" not in (await client.get(MODELS)).headers
        await client.post(CHAT, json={**body, "model": "nothing"})
    await asyncio.sleep(0.1)
    async with pair[0].client(key) as client:
        last = await client.post(CHAT, json=body)
    cost = 2 * used + embedding.json()["usage"]["total_tokens"]
    assert int(last.headers["x-ratelimit-remaining-tokens"]) == left - cost


async def test_more_tokens_than_there_are(pair: list[Proxy]) -> None:
    key = pair[0].new_key("large", token_limit=300, token_window_seconds=600)
    async with pair[0].client(key) as client:
        refused = await client.post(CHAT, json=ask(max_tokens=400))
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "tokens"
        assert "retry-after" not in refused.headers
        assert refused.headers["x-should-retry"] == "false"
        assert (await client.post(CHAT, json=ask(max_tokens=4))).status_code == 200


async def test_tokens_of_two_hosts_never_add_up_to_more(pair: list[Proxy]) -> None:
    limit = 900
    key = pair[0].new_key("many", token_limit=limit, token_window_seconds=600)

    async def burst(proxy: Proxy) -> list[httpx.Response]:
        async with proxy.client(key) as client:
            return await asyncio.gather(
                *(client.post(CHAT, json=ask(max_tokens=16)) for _ in range(25))
            )

    used = 0
    reserve = prompt_estimate(200) + 16
    deadline = time.monotonic() + 20
    enough = False
    while not enough and time.monotonic() < deadline:
        # One more burst when next to nothing is left.
        enough = used >= limit - 2 * reserve
        for answers in await asyncio.gather(*map(burst, pair)):
            assert {answer.status_code for answer in answers} <= {200, 429}
            used += sum(
                answer.json()["usage"]["total_tokens"]
                for answer in answers
                if answer.status_code == 200
            )
    assert limit - 2 * reserve <= used <= limit


@asynccontextmanager
async def faked(
    proxy: Proxy, answer: Callable[[Call], Awaitable[None]]
) -> AsyncIterator[FakeBackend]:
    """A model "fake" that answers so."""
    async with fake_backend(answer) as fake:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        yield fake


async def test_who_leaves_pays_for_what_came(own: Proxy) -> None:
    async with (
        faked(own, three_and_wait) as fake,
        own.client(own.new_key("leaver", token_limit=10_000, day_budget=10_000)) as client,
    ):
        async with client.stream("POST", CHAT, json=ask("fake", stream=True)) as response:
            text = ""
            parts = response.aiter_text()
            async for part in parts:
                text += part
                if '"c"' in text:
                    break
            # Behind it, somebody who never gets to the model.
            waiting = asyncio.create_task(client.post(CHAT, json=ask("fake")))
            await asyncio.sleep(0.3)
            assert len(fake.calls) == 1
            waiting.cancel()
        # The prompt's estimate and three tokens, of more than a thousand that were reserved.
        for kind in ("tokens", "day"):
            settled = partial(lambda kind: 3 < spent(own, kind) < 200, kind)
            await asyncio.to_thread(wait_for, settled, 10, "a settlement")


async def test_who_leaves_several_answers_pays_for_all_that_came(own: Proxy) -> None:
    """One of them is over, and its tokens are counted; of the other only the pieces are known."""
    calls = 0

    async def first_alone_ends(call: Call) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await call.send(HEAD, delta("a"), delta("", "stop"), usage(5, 1), DONE, END)
            return
        await call.send(HEAD, *[delta("b")] * 300)
        await call.gone(60)

    key = own.new_key("several", token_limit=10_000)
    async with (
        faked(own, first_alone_ends),
        own.client(key) as client,
        client.stream("POST", CHAT, json={**ask("fake", stream=True), "n": 2}) as response,
    ):
        text = ""
        async for part in response.aiter_text():
            text += part
            if text.count('"b"') == 300:
                break
    settled = partial(lambda kind: 300 < spent(own, kind) < 600, "tokens")
    await asyncio.to_thread(wait_for, settled, 10, "a settlement")


async def test_who_leaves_while_the_prompt_is_read_pays_for_it(own: Proxy) -> None:
    async def reads(call: Call) -> None:
        await call.gone(60)

    body = ask("fake", max_tokens=1000)
    body["messages"][0]["content"] = "x" * 3000
    async with (
        faked(own, reads) as fake,
        own.client(own.new_key("reader", token_limit=10_000)) as client,
    ):
        request = asyncio.create_task(client.post(CHAT, json=body))
        await asyncio.wait_for(fake.called.wait(), 10)
        request.cancel()
        # A thousand tokens of prompt; of the thousand that an answer may have, none.
        await asyncio.to_thread(
            wait_for, lambda: 1000 <= spent(own, "tokens") < 1500, 10, "a settlement"
        )


async def broken(call: Call) -> None:
    await call.send(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")


async def too_long(call: Call) -> None:
    event = b'data: {"error":{"code":"context_length_exceeded"}}\n\n'
    await call.send(HEAD, chunked(event), DONE, END)


@pytest.mark.parametrize(("answer", "status"), [(broken, 502), (too_long, 400)])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_failed_before_a_token_came_costs_none(
    own: Proxy, answer: Callable[[Call], Awaitable[None]], status: int, stream: bool
) -> None:
    key = own.new_key("unlucky", token_limit=1000)
    async with faked(own, answer), own.client(key) as client:
        for _ in range(3):
            response = await client.post(CHAT, json=ask("fake", max_tokens=900, stream=stream))
            assert response.status_code == status
    await asyncio.to_thread(wait_for, lambda: spent(own, "tokens") == 0, 10, "a settlement")


async def counted(call: Call) -> None:
    await call.send(HEAD, delta("a"), delta("", "stop"), usage(30, 70), DONE, END)


async def test_a_budget_is_used_up_and_survives_a_restart(own: Proxy) -> None:
    key = own.new_key("budget", day_budget=1000, month_budget=100_000)
    async with faked(own, counted):
        statuses = []
        async with own.client(key) as client:
            for _ in range(9):
                response = await client.post(CHAT, json=ask("fake", max_tokens=100))
                statuses.append(response.status_code)
        assert statuses == [200] * 9
        await asyncio.to_thread(own.stop, signal.SIGTERM)
        await asyncio.to_thread(own.start)
        async with own.client(key) as client:
            # 100 are left; what it may take is more than that.
            response = await client.post(CHAT, json=ask("fake", max_tokens=100))
            assert response.status_code == 429
            error = response.json()["error"]
            assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
            assert "100 are left" in error["message"]
            assert int(response.headers["retry-after"]) <= 86_400
            response = await client.post(CHAT, json=ask("fake", max_tokens=20))
            assert response.status_code == 200
        with own.admin() as admin:
            user = next(u for u in users.list_users(admin) if u.username.startswith("budget"))
            await asyncio.to_thread(
                wait_for,
                lambda: users.used(admin, user) == {"day": 1000, "month": 1000},
                10,
                "1000",
            )
