"""Several choices in one answer: ``n``, and completions of several prompts."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import openai
import pytest

from support.backend import Backend
from support.fake_backend import DONE, END, HEAD, Call, chunked, delta, fake_backend, usage
from support.models import SAY, SAY_TOKENS
from support.proxy import Proxy, model_entry


def say(text: str = "hello") -> list[Any]:
    return [{"role": "user", "content": text}]


def texts(chunks: Iterable[Any]) -> dict[int, str]:
    """What a chat's stream says, by choice."""
    found: dict[int, str] = defaultdict(str)
    for chunk in chunks:
        for choice in chunk.choices:
            found[choice.index] += choice.delta.content or ""
    return dict(found)


async def collect(stream: Any, chunks: list[Any]) -> None:
    """Adds chunk by chunk, so that those before a failure are there."""
    async for chunk in stream:
        chunks.append(chunk)  # noqa: PERF401


async def row_of(proxy: Proxy, user: str) -> dict[str, Any]:
    """The last row of the request log that a user has, once there is one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows = await asyncio.to_thread(proxy.rows)
        if own := [row for row in rows if row["username"].startswith(user)]:
            return own[-1]
        await asyncio.sleep(0.1)
    raise AssertionError(f"no row of {user}")


async def until(proxy: Proxy, name: str, count: int) -> None:
    """Until so many requests wait for the fake backend, or run there."""
    deadline = time.monotonic() + 20
    while await asyncio.to_thread(proxy.metric, name, model="fake") != count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_choices_of_a_chat(proxy: Proxy, key: str) -> None:
    async with proxy.openai(key) as client:
        one = await client.chat.completions.create(model="script", messages=say())
    counted = await asyncio.to_thread(proxy.new_key, "chooser")
    async with proxy.openai(counted) as client:
        whole = await client.chat.completions.create(model="script", messages=say(), n=3)
    async with proxy.openai(key) as client:
        stream = await client.chat.completions.create(
            model="script",
            messages=say(),
            n=3,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert {choice.message.content for choice in whole.choices} == {SAY}
    assert {choice.finish_reason for choice in whole.choices} == {"stop"}
    assert one.usage is not None
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == one.usage.prompt_tokens
    assert whole.usage.completion_tokens == 3 * SAY_TOKENS
    assert texts(chunks) == dict.fromkeys(range(3), SAY)
    assert len({chunk.id for chunk in chunks}) == 1
    ends = [choice for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(choice.index for choice in ends) == [0, 1, 2]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert (await row_of(proxy, "chooser"))["completion_tokens"] == 3 * SAY_TOKENS


async def test_choices_differ_by_their_seeds(proxy: Proxy, key: str) -> None:
    """Biases make every letter as likely as the next word of the recital."""
    biases = {str(token): 40 for token in range(260, 340)}
    async with proxy.openai(key) as client:

        async def ask() -> list[str | None]:
            answer = await client.chat.completions.create(
                model="script",
                messages=say(),
                n=4,
                seed=7,
                max_tokens=12,
                logit_bias=biases,
                extra_body={"top_k": 0, "min_p": 0},
            )
            return [choice.message.content for choice in answer.choices]

        first, second = await ask(), await ask()
    assert len(set(first)) == 4
    assert first == second


async def test_completions_of_several_prompts(proxy: Proxy, key: str) -> None:
    prompts = ["x<|json|>", "x<|say|>"]
    async with proxy.openai(key) as client:
        alone = [await client.completions.create(model="script", prompt=p) for p in prompts]
        both = await client.completions.create(model="script", prompt=prompts, n=2, best_of=2)
        stream = await client.completions.create(model="script", prompt=prompts, n=2, stream=True)
        streamed: dict[int, str] = defaultdict(str)
        async for chunk in stream:
            streamed[chunk.choices[0].index] += chunk.choices[0].text
    expected = [answer.choices[0].text for answer in alone for _ in range(2)]
    assert [choice.text for choice in both.choices] == expected
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [streamed[index] for index in range(4)] == expected
    assert both.usage is not None
    used = [answer.usage for answer in alone if answer.usage is not None]
    assert both.usage.prompt_tokens == sum(usage.prompt_tokens for usage in used)
    assert both.usage.completion_tokens == 2 * sum(usage.completion_tokens for usage in used)


async def test_replicas_work_side_by_side(proxy: Proxy, key: str, chat_backend: Backend) -> None:
    backends = model_entry("x", chat_backend.url)["backends"]
    async with fake_backend(recite) as other:
        more = model_entry("x", other.url)["backends"]
        await asyncio.to_thread(
            proxy.route, "pair", chat_backend.url, backends=[*backends, *more], n_ctx=8192
        )
        async with proxy.openai(key) as client:
            answer = await client.chat.completions.create(model="pair", messages=say(), n=2)
    assert {choice.message.content for choice in answer.choices} == {SAY, "recited"}
    assert len(other.calls) == 1


async def recite(call: Call) -> None:
    await call.send(HEAD, delta("recited"), delta("", "stop"), usage(3, 1), DONE, END)


async def test_others_get_their_turn_in_between(proxy: Proxy, key: str) -> None:
    free = asyncio.Semaphore(0)

    async def slowly(call: Call) -> None:
        await free.acquire()
        await recite(call)

    async with fake_backend(slowly) as fake:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        other = await asyncio.to_thread(proxy.new_key)
        async with proxy.openai(key) as client, proxy.openai(other) as second:
            many = asyncio.create_task(
                client.chat.completions.create(model="fake", messages=say(), n=3)
            )
            await asyncio.wait_for(fake.called.wait(), 20)
            one = asyncio.create_task(
                second.chat.completions.create(model="fake", messages=say("other"))
            )
            await until(proxy, "llamakit_queued", 1)
            for _ in range(4):
                free.release()
            await asyncio.gather(many, one)
    asked = [call.body["messages"][0]["content"] for call in fake.calls]
    assert asked == ["hello", "other", "hello", "hello"]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_failure_of_one_ends_all(proxy: Proxy, key: str, stream: bool) -> None:
    async def fail_second(call: Call) -> None:
        if len(fake.calls) == 2:
            error = chunked(b'data: {"error": {"code": "generation_failed"}}\n\n')
            await call.send(HEAD, error, DONE, END)
        else:
            await recite(call)

    async with fake_backend(fail_second) as fake, proxy.openai(key) as client:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        arguments: Any = {"model": "fake", "messages": say(), "n": 4, "stream": stream}
        if not stream:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(**arguments)
        else:
            chunks: list[Any] = []
            with pytest.raises(openai.APIError):
                await collect(await client.chat.completions.create(**arguments), chunks)
            assert texts(chunks) == {0: "recited"}
    assert len(fake.calls) == 2


async def test_a_route_that_goes_meanwhile(proxy: Proxy, key: str) -> None:
    async def remove(call: Call) -> None:
        proxy.models = [model for model in proxy.models if model["id"] != "brief"]
        proxy.write_routes()
        deadline = time.monotonic() + 20
        while "brief" in (await asyncio.to_thread(proxy.page, "/readyz")).text:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await recite(call)

    async with fake_backend(remove) as fake, proxy.openai(key) as client:
        await asyncio.to_thread(proxy.route, "brief", fake.url)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="brief", messages=say(), n=2)
    assert caught.value.status_code == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_all(proxy: Proxy, stream: bool) -> None:
    name = f"leaver-{stream}".lower()
    key = await asyncio.to_thread(proxy.new_key, name)
    gone = asyncio.Event()

    async def begin(call: Call) -> None:
        await call.send(HEAD, delta("well"))
        await call.gone()
        gone.set()

    async with fake_backend(begin) as fake, proxy.client(key) as client:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        body = {"model": "fake", "messages": say(), "n": 3, "stream": stream}
        request = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await asyncio.wait_for(fake.called.wait(), 20)
        request.cancel()
        await asyncio.wait_for(gone.wait(), 20)
        await until(proxy, "llamakit_running", 0)
    assert len(fake.calls) == 1
    assert (await row_of(proxy, name))["error_code"] == "client_disconnected"


@pytest.mark.parametrize("count", [0, 9])
async def test_bounds_of_a_chat(proxy: Proxy, key: str, count: int) -> None:
    async with proxy.openai(key) as client:
        with pytest.raises(openai.BadRequestError, match="1 to 8"):
            await client.chat.completions.create(model="script", messages=say(), n=count)
