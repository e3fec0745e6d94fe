"""Replicas of a model that fail: who notices, who does not, and how they come back."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.backend import free_port, running_backend
from support.fake_backend import (
    DONE,
    END,
    HEAD,
    Answer,
    Call,
    FakeBackend,
    chunked,
    delta,
    fake_backend,
    usage,
)
from support.models import SAY, script_model
from support.postgres import Postgres
from support.proxy import Proxy, running_proxy

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def proxy(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that soon calls a backend slow; tests with real model servers have another."""
    with running_proxy(
        postgres,
        tmp_path_factory.mktemp("failover"),
        [],
        LLAMA_PROXY_STALL_TIMEOUT_SECONDS="2",
        LLAMA_PROXY_QUEUE_TIMEOUT_SECONDS="3",
        LLAMA_PROXY_QUEUE_LIMIT="100",
    ) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def key(proxy: Proxy) -> str:
    return proxy.new_key()


def ask(model: str, stream: bool = False, text: str = "Hello?", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "stream": stream, **more}


def replicas(*urls: str, capacity: int = 1) -> list[dict[str, Any]]:
    return [{"url": url, "api_key_secret": None, "capacity": capacity} for url in urls]


async def route(proxy: Proxy, *urls: str, **more: Any) -> str:
    """A new model on these backends; its name."""
    name = f"model{len(proxy.models)}"
    await asyncio.to_thread(proxy.route, name, urls[0], backends=replicas(*urls), **more)
    return name


def available(proxy: Proxy, model: str, number: int) -> float:
    """Whether requests go to the model's backend of that number, the first being 1."""
    backends = next(entry for entry in proxy.models if entry["id"] == model)["backends"]
    return proxy.metric(
        "llamakit_backend_available", model=model, backend=backends[number - 1]["url"]
    )


def text_of(response: httpx.Response) -> str:
    """The answer's text; an error unless it is whole."""
    assert response.status_code == 200, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        text: str = response.json()["choices"][0]["message"]["content"]
        return text
    assert response.text.endswith("data: [DONE]\n\n"), response.text
    events = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def good(call: Call) -> None:
    await call.send(HEAD, delta("good"), delta("", "stop"), usage(5, 1), DONE, END)


async def slams(call: Call) -> None:
    await call.send()
    raise ConnectionError


async def breaks_after_some(call: Call) -> None:
    await call.send(HEAD, delta("some"))
    await asyncio.sleep(0.05)
    raise ConnectionError


async def empty(call: Call) -> None:
    await call.send(HEAD, END)


async def error_event(call: Call) -> None:
    await call.send(HEAD, chunked(b'data: {"error":{"code":"generation_failed"}}\n\n'), DONE, END)


async def error_status(call: Call) -> None:
    await call.send(b"HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\n{}")


async def still_loading(call: Call) -> None:
    await call.send(b"HTTP/1.1 503 X\r\ncontent-length: 2\r\n\r\n{}")


async def too_long(call: Call) -> None:
    event = b'data: {"error":{"code":"context_length_exceeded"}}\n\n'
    await call.send(HEAD, chunked(event), DONE, END)


@contextlib.asynccontextmanager
async def pair(first: Answer, second: Answer) -> AsyncIterator[tuple[FakeBackend, FakeBackend]]:
    async with fake_backend(first) as one, fake_backend(second) as two:
        yield one, two


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("answer", [slams, empty, error_event, error_status, still_loading])
async def test_before_the_first_token_another_replica_answers(
    proxy: Proxy, key: str, answer: Answer, stream: bool
) -> None:
    async with pair(answer, good) as (bad, fine), proxy.client(key) as client:
        name = await route(proxy, bad.url, fine.url)
        for _ in range(3):
            response = await client.post(CHAT, json=ask(name, stream))
            assert text_of(response) == "good"
        assert bad.calls
        assert len(fine.calls) == 3
    assert await asyncio.to_thread(proxy.metric, "llamakit_failovers_total", model=name) >= 1


async def test_after_the_first_token_nobody_else_is_asked(proxy: Proxy, key: str) -> None:
    async with pair(breaks_after_some, good) as (bad, fine), proxy.client(key) as client:
        name = await route(proxy, bad.url, fine.url)
        response = await client.post(CHAT, json=ask(name, stream=True))
        assert '"some"' in response.text
        assert "backend_error" in response.text
        assert "[DONE]" not in response.text
        assert (len(bad.calls), len(fine.calls)) == (1, 0)


async def test_a_whole_answer_is_begun_anew(proxy: Proxy, key: str) -> None:
    """Its client has nothing of what the first one had begun."""
    async with pair(breaks_after_some, good) as (bad, fine), proxy.client(key) as client:
        name = await route(proxy, bad.url, fine.url)
        assert text_of(await client.post(CHAT, json=ask(name))) == "good"
        assert len(bad.calls) == 1


async def test_a_request_that_ends_servers_ends_two_at_most(proxy: Proxy, key: str) -> None:
    async with pair(slams, slams) as (one, two), fake_backend(slams) as three:
        name = await route(proxy, one.url, two.url, three.url)
        async with proxy.client(key) as client:
            response = await client.post(CHAT, json=ask(name))
        assert response.status_code == 502
        assert len(one.calls) + len(two.calls) + len(three.calls) == 2


async def test_what_is_wrong_with_the_request_is_asked_once(proxy: Proxy, key: str) -> None:
    async with pair(too_long, too_long) as (one, two), proxy.client(key) as client:
        name = await route(proxy, one.url, two.url)
        for _ in range(4):
            response = await client.post(CHAT, json=ask(name))
            assert response.json()["error"]["code"] == "context_length_exceeded"
        assert len(one.calls) + len(two.calls) == 4
        assert await asyncio.to_thread(available, proxy, name, 1) == 1


async def test_every_replica_is_tried_when_none_takes_a_connection(proxy: Proxy, key: str) -> None:
    async with fake_backend(good) as fine, proxy.client(key) as client:
        away = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
        name = await route(proxy, *away, fine.url)
        assert text_of(await client.post(CHAT, json=ask(name))) == "good"


async def test_a_replica_that_is_away_is_left_alone_and_comes_back(proxy: Proxy, key: str) -> None:
    port = free_port()
    async with fake_backend(good) as fine, proxy.client(key) as client:
        name = await route(proxy, f"http://127.0.0.1:{port}", fine.url)
        for talk in range(12):
            # The next turn of one conversation would go where the one before was answered.
            response = await client.post(CHAT, json=ask(name, text=f"Talk {talk}"))
            assert text_of(response) == "good"
        assert await asyncio.to_thread(available, proxy, name, 1) == 0
        assert await asyncio.to_thread(available, proxy, name, 2) == 1
        page = await asyncio.to_thread(proxy.page, "/readyz")
        assert page.json()["backends"][name] == "1 of 2 up"
        assert str(port) not in page.text
        async with fake_backend(good, port):
            async with asyncio.timeout(20):
                while not await asyncio.to_thread(available, proxy, name, 1):
                    response = await client.post(CHAT, json=ask(name, text=str(time.time())))
                    assert text_of(response) == "good"
    assert "is left alone for 1 s: it takes no connection" in proxy.log.read_text()


async def test_a_lonely_backend_that_restarts_is_waited_for(proxy: Proxy, key: str) -> None:
    port = free_port()
    name = await route(proxy, f"http://127.0.0.1:{port}")
    async with proxy.client(key) as client:
        task = asyncio.create_task(client.post(CHAT, json=ask(name)))
        await asyncio.sleep(0.5)
        async with fake_backend(good, port):
            assert text_of(await task) == "good"
    assert await asyncio.to_thread(available, proxy, name, 1) == 1


async def test_when_all_are_away_nobody_waits(proxy: Proxy, key: str) -> None:
    name = await route(proxy, f"http://127.0.0.1:{free_port()}")
    async with proxy.client(key) as client:
        responses = await asyncio.gather(*(client.post(CHAT, json=ask(name)) for _ in range(10)))
        for response in responses:
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "backend_unavailable"
            assert int(response.headers["retry-after"]) >= 1
    assert await asyncio.to_thread(proxy.metric, "llamakit_queued", model=name) == 0
    page = await asyncio.to_thread(proxy.page, "/readyz")
    assert page.json()["backends"][name] == "0 of 1 up"


async def test_a_backend_that_stalls_again_and_again(proxy: Proxy, key: str) -> None:
    stalling = True

    async def stalls(call: Call) -> None:
        if not stalling:
            await good(call)
            return
        await call.send(HEAD, delta("some"))
        await call.gone()
        raise ConnectionError

    async with fake_backend(stalls) as fake, proxy.client(key) as client:
        name = await route(proxy, fake.url)
        for _ in range(2):
            response = await client.post(CHAT, json=ask(name))
            assert response.json()["error"]["code"] == "backend_timeout"
        response = await client.post(CHAT, json=ask(name))
        assert response.json()["error"]["code"] == "backend_unavailable"
        assert len(fake.calls) == 2
        stalling = False
        async with asyncio.timeout(20):
            while response.status_code != 200:
                await asyncio.sleep(0.1)
                response = await client.post(CHAT, json=ask(name))
        assert await asyncio.to_thread(available, proxy, name, 1) == 1


async def test_of_two_that_are_cut_short_one_has_stalled(proxy: Proxy, key: str) -> None:
    """Both choices of a request end with the one whose backend gives nothing."""

    async def goes_on(call: Call) -> None:
        await call.send(HEAD)
        gone = asyncio.create_task(call.gone(20))
        while not gone.done():
            await call.send(delta("some"))
            await asyncio.sleep(0.1)

    async def stalls(call: Call) -> None:
        await call.send(HEAD, delta("some"))
        await call.gone()

    async with pair(goes_on, stalls) as (fine, bad), proxy.client(key) as client:
        name = await route(proxy, fine.url, bad.url)
        for _ in range(2):
            response = await client.post(CHAT, json=ask(name, n=2))
            assert response.json()["error"]["code"] == "backend_timeout"
        assert await asyncio.to_thread(available, proxy, name, 2) == 0
        assert await asyncio.to_thread(available, proxy, name, 1) == 1


async def test_the_second_one_is_watched_as_well(proxy: Proxy, key: str) -> None:
    async def silent(call: Call) -> None:
        await call.gone()
        raise ConnectionError

    async with pair(slams, silent) as (one, two), proxy.client(key) as client:
        name = await route(proxy, one.url, two.url)
        response = await client.post(CHAT, json=ask(name))
        assert response.json()["error"]["code"] == "backend_timeout"
        assert (len(one.calls), len(two.calls)) == (1, 1)


async def test_errors_for_one_user_do_not_take_the_model_from_others(
    proxy: Proxy, key: str
) -> None:
    async def picky(call: Call) -> None:
        await (error_event if call.body.get("seed") == 13 else good)(call)

    async with fake_backend(picky) as fake, proxy.client(key) as client:
        name = await route(proxy, fake.url)
        for _ in range(6):
            assert (await client.post(CHAT, json=ask(name, seed=13))).status_code == 502
        async with proxy.client(proxy.new_key()) as other:
            assert text_of(await other.post(CHAT, json=ask(name))) == "good"


@pytest.mark.parametrize("empty_first", [False, True])
async def test_embeddings_go_on_elsewhere_with_what_is_left(
    proxy: Proxy, key: str, empty_first: bool
) -> None:
    asked: list[int] = []

    async def embeds(call: Call) -> None:
        asked.append(len(call.body["input"]))
        vector = [] if empty_first and len(asked) == 2 else [0.5]
        data = [{"embedding": vector} for _ in call.body["input"]]
        usage = {"prompt_tokens": len(data)}
        body = json.dumps({"data": data, "usage": usage}).encode()
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def embeds_once(call: Call) -> None:
        if asked and not empty_first:
            raise ConnectionError
        await embeds(call)

    async with pair(embeds_once, embeds) as (one, two), proxy.client(key) as client:
        name = await route(proxy, one.url, two.url, kind="embedding")
        body = {"model": name, "input": ["x"] * 100}
        response = await client.post("/v1/embeddings", json=body)
        assert len(response.json()["data"]) == response.json()["usage"]["prompt_tokens"] == 100
        assert asked == ([64, 36, 36] if empty_first else [64, 36])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_backend_with_another_model_never_answers(
    own: Proxy, models_folder: Path, stream: bool
) -> None:
    """A route that is older than what runs behind it."""
    name, model = f"moved-{stream}", script_model(models_folder)
    with (
        running_backend(model, model_alias="came-instead") as other,
        running_backend(model, model_alias=name) as right,
    ):
        keyed = [
            {"url": backend.url, "api_key_secret": "llama_api_key", "capacity": 1}
            for backend in (other, right)
        ]
        async with own.client(own.new_key()) as client:
            await asyncio.to_thread(own.route, name, "", backends=keyed[:1], n_ctx=2048)
            response = await client.post(CHAT, json=ask(name, stream))
            assert response.status_code == 502
            error = response.json()["error"]
            assert error["code"] == "backend_error"
            assert "another model" in error["message"]
            await asyncio.to_thread(own.route, name, "", backends=keyed, n_ctx=2048)
            for _ in range(3):
                assert text_of(await client.post(CHAT, json=ask(name))) == SAY


async def test_killed_under_load(own: Proxy, models_folder: Path) -> None:
    """kill -9 of one of two real model servers: only what its readers had begun to read ends."""
    begun_and_cut = whole = 0
    stop = asyncio.Event()

    async def load(client: httpx.AsyncClient, name: str, stream: bool) -> None:
        nonlocal begun_and_cut, whole
        while not stop.is_set():
            response = await client.post(CHAT, json=ask(name, stream, max_tokens=300))
            if stream and "[DONE]" not in response.text:
                assert response.status_code == 200
                # Perhaps only the role: the backend writes it once there is a first token.
                assert '"delta"' in response.text, f"it had not begun: {response.text}"
                assert "backend_error" in response.text
                begun_and_cut += 1
            else:
                assert text_of(response) == SAY
                whole += 1

    model = script_model(models_folder)
    with running_backend(model) as one, running_backend(model) as two:
        keyed = [{"url": backend.url, "api_key_secret": "llama_api_key"} for backend in (one, two)]
        name = await route(own, one.url, two.url, n_ctx=2048)
        await asyncio.to_thread(own.route, name, one.url, backends=keyed)
        async with contextlib.AsyncExitStack() as clients, asyncio.TaskGroup() as tasks:
            for number in range(6):
                client = await clients.enter_async_context(own.client(own.new_key()))
                tasks.create_task(load(client, name, stream=number % 2 == 0))
            await asyncio.sleep(1)
            await asyncio.to_thread(one.stop, signal.SIGKILL)
            await asyncio.sleep(1.5)
            before = whole
            await asyncio.to_thread(one.start)
            begin = time.monotonic()
            while not await asyncio.to_thread(available, own, name, 1):
                assert time.monotonic() - begin < 30
                await asyncio.sleep(0.1)
            stop.set()
    assert whole > before > 0
    assert begun_and_cut <= 1
    assert await asyncio.to_thread(own.metric, "llamakit_running", model=name) == 0
    assert await asyncio.to_thread(own.metric, "llamakit_queued", model=name) == 0
