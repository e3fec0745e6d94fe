"""Models, routes and limits change while people use the proxy."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.backend import Backend
from support.fake_backend import (
    DONE,
    END,
    HEAD,
    Call,
    FakeBackend,
    Paused,
    delta,
    fake_backend,
    usage,
)
from support.postgres import Postgres
from support.processes import wait_for
from support.proxy import Proxy, model_entry, new_proxy
from support.releases import Releases

CHAT = "/v1/chat/completions"


@pytest.fixture
def releases(postgres: Postgres, tmp_path: Path, chat_backend: Backend) -> Iterator[Releases]:
    """A running proxy of the release "one"."""
    models = [model_entry("script", chat_backend.url, n_ctx=8192, max_tokens=8000)]
    found = Releases(new_proxy(postgres, tmp_path, models))
    found.add("one")
    found.use("one")
    try:
        found.proxy.start()
        yield found
    finally:
        found.proxy.stop()


@asynccontextmanager
async def running_stream(
    proxy: Proxy, model: str = "paused"
) -> AsyncIterator[tuple[FakeBackend, asyncio.Event, asyncio.Task[str]]]:
    """A stream of a model in its middle, what lets it go on, and what it will have said."""
    paused = Paused()
    async with fake_backend(paused) as fake, proxy.client(proxy.new_key()) as client:
        await asyncio.to_thread(proxy.route, model, fake.url)

        async def ask() -> str:
            answer = await client.post(CHAT, json=chat(model, stream=True))
            assert answer.status_code == 200
            return answer.text

        task = asyncio.create_task(ask())
        await asyncio.wait_for(fake.called.wait(), 10)
        try:
            yield fake, paused.go_on, task
        finally:
            paused.go_on.set()
            await asyncio.gather(task, return_exceptions=True)


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


async def status(proxy: Proxy, model: str) -> tuple[int, str | None]:
    """What a request of the model comes to, and its error."""
    async with proxy.client(proxy.new_key()) as client:
        answer = await client.post(CHAT, json=chat(model))
    return answer.status_code, answer.json().get("error", {}).get("code")


def without(proxy: Proxy, name: str) -> None:
    """Take a model out of the routes, and wait until the proxy has done so."""
    proxy.models = [model for model in proxy.models if model["id"] != name]
    proxy.write_routes()
    wait_for(lambda: name not in proxy.page("/readyz").json()["models"], 10, f"{name} is gone")


def queued(proxy: Proxy) -> float:
    """How many wait for the model."""
    return proxy.metric("llamakit_queued", model="paused")


def is_whole(text: str) -> bool:
    """Whether a stream said both of its words and came to its end."""
    return "one" in text and "two" in text and text.rstrip().endswith("data: [DONE]")


async def test_a_model_that_is_taken_away_finishes_what_it_began(releases: Releases) -> None:
    proxy = releases.proxy
    async with running_stream(proxy) as (_, go_on, stream):
        async with proxy.client(proxy.new_key()) as client:
            waiting = asyncio.create_task(client.post(CHAT, json=chat("paused")))
            await asyncio.to_thread(wait_for, lambda: queued(proxy) == 1, 10, "it waits")
            await asyncio.to_thread(without, proxy, "paused")
            # Who waits is told at once: there is nothing to wait for.
            refused = await asyncio.wait_for(waiting, 10)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "backend_unavailable"
        assert int(refused.headers["retry-after"]) > 0
        assert await status(proxy, "paused") == (404, "model_not_found")
        assert await status(proxy, "script") == (200, None)
        assert not stream.done()
        go_on.set()
        assert is_whole(await stream)
    assert 'llamakit_queued{model="paused"}' not in proxy.page("/metrics").text


async def test_a_model_that_moves_finishes_where_it_was(releases: Releases) -> None:
    proxy = releases.proxy
    async with running_stream(proxy) as (old, go_on, stream), fake_backend(finished) as new:
        await asyncio.to_thread(proxy.route, "paused", new.url)
        assert await status(proxy, "paused") == (200, None)
        assert (len(old.calls), len(new.calls)) == (1, 1)
        go_on.set()
        assert is_whole(await stream)


async def finished(call: Call) -> None:
    await call.send(HEAD, delta("x"), delta("", "stop"), usage(1, 1), DONE, END)


async def test_a_model_that_is_added_serves_and_nobody_notices(releases: Releases) -> None:
    proxy = releases.proxy
    before = proxy.workers()
    async with running_stream(proxy) as (_, go_on, stream), fake_backend(finished) as fake:
        assert await status(proxy, "added") == (404, "model_not_found")
        await asyncio.to_thread(proxy.route, "added", fake.url, aliases=["Added.gguf"])
        assert await status(proxy, "added") == (200, None)
        assert await status(proxy, "Added.gguf") == (200, None)
        assert "new routes are in force: 3 models" in proxy.log.read_text()
        go_on.set()
        assert is_whole(await stream)
    assert proxy.workers() == before


WRONG = {
    "not JSON": '{"models": [',
    "half a file": json.dumps({"models": [model_entry("x", "http://h:1")]})[:-20],
    "a model without a backend": json.dumps({"models": [model_entry("x", "", backends=[])]}),
    "a name twice": json.dumps({"models": [model_entry("x", "http://h:1")] * 2}),
    "a secret that is not there": json.dumps(
        {"models": [model_entry("x", "", backends=[{"url": "http://h:1", "api_key_secret": "no"}])]}
    ),
    "gone": None,
}


async def test_routes_that_are_wrong_change_nothing_and_are_told(releases: Releases) -> None:
    proxy = releases.proxy
    path = proxy.settings.routes_path
    async with running_stream(proxy) as (_, go_on, stream):
        for what, text in WRONG.items():
            told = proxy.log.read_text().count("the old routes stay in force")
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
            await asyncio.to_thread(
                wait_for,
                lambda told=told: proxy.log.read_text().count("the old routes stay") > told,
                10,
                f"{what} is told",
            )
            said = proxy.log.read_text().splitlines()
            reason = json.loads([text for text in said if "the old routes stay" in text][-1])
            assert (reason["level"], str(path) in reason["message"]) == ("error", True), what
            ready = await asyncio.to_thread(proxy.page, "/readyz")
            assert ready.status_code == 200
            assert ready.json()["status"] == "degraded"
            assert ready.json()["routes"] == "invalid file, old ones kept"
            assert set(ready.json()["models"]) == {"script", "paused"}
            assert await asyncio.to_thread(proxy.metric, "llamakit_routes_current") == 0
            assert await status(proxy, "script") == (200, None)
        # Nor does a new worker take them: the one that has good ones goes on.
        workers = proxy.workers()
        releases.add("two")
        releases.use("two")
        reload(proxy)
        await asyncio.to_thread(proxy.wait_for_log, "(release one) goes on")
        assert proxy.workers() == workers
        go_on.set()
        assert is_whole(await stream)
    proxy.write_routes()
    await asyncio.to_thread(
        wait_for, lambda: proxy.page("/readyz").json()["routes"] == "current", 10, "they are good"
    )
    assert await asyncio.to_thread(proxy.metric, "llamakit_routes_current") == 1


async def test_new_limits_hold_for_new_requests(releases: Releases) -> None:
    proxy = releases.proxy
    key = proxy.new_key(rate_limit=None)
    async with running_stream(proxy) as (fake, go_on, stream), proxy.client(key) as client:
        answer = await client.get("/v1/models")
        assert answer.headers["x-ratelimit-limit-requests"] == "60"
        releases.add("two", LLAMA_PROXY_RATE_LIMIT="3", LLAMA_PROXY_MAX_TOKENS="7")
        releases.use("two")
        reload(proxy)
        await asyncio.to_thread(
            wait_for, lambda: proxy.page("/healthz").json()["release"] == "two", 40, "two serves"
        )
        runs = await asyncio.to_thread(proxy.page, "/metrics")
        assert 'llamakit_build_info{version="0.1.0",release="two"} 1.0' in runs.text
        # What was asked of the process before counts, too.
        async with proxy.client(key) as new:
            answers = [await new.get("/v1/models") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
        # The routes say nothing of tokens: the default is the new one.
        plain = model_entry("plain", fake.url)
        del plain["max_tokens"]
        proxy.models.append(plain)
        proxy.write_routes()
        await asyncio.to_thread(proxy.wait_for_model, "plain")
        go_on.set()
        assert is_whole(await stream)
        assert await status(proxy, "plain") == (200, None)
        assert fake.calls[-1].body["max_tokens"] == 7


def reload(proxy: Proxy) -> None:
    assert proxy.process is not None
    proxy.process.send_signal(signal.SIGHUP)
