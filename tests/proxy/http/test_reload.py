"""From one release to the next while people use the proxy."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llamakit_proxy import users
from support.backend import Backend
from support.fake_backend import DONE, END, HEAD, Call, delta, fake_backend, usage
from support.postgres import Postgres
from support.processes import wait_for
from support.proxy import Proxy, model_entry, new_proxy
from support.releases import Releases

CHAT = "/v1/chat/completions"


@pytest.fixture
def releases(postgres: Postgres, tmp_path: Path, chat_backend: Backend) -> Iterator[Releases]:
    """A running proxy of the release "one"; others can be put beside it."""
    models = [model_entry("script", chat_backend.url, n_ctx=8192, max_tokens=8000)]
    proxy = new_proxy(postgres, tmp_path, models, LLAMA_PROXY_READY_TIMEOUT_SECONDS="15")
    found = Releases(proxy)
    found.add("one")
    found.use("one")
    try:
        proxy.start()
        yield found
    finally:
        proxy.stop()


def reload(proxy: Proxy) -> None:
    assert proxy.process is not None
    proxy.process.send_signal(signal.SIGHUP)


async def reloaded(proxy: Proxy, name: str) -> None:
    """Until the release serves, as a deployment waits for it."""
    deadline = time.monotonic() + 40
    while (await asyncio.to_thread(proxy.page, "/readyz")).json()["release"] != name:
        assert time.monotonic() < deadline, proxy.log.read_text()[-2000:]
        await asyncio.sleep(0.05)
    assert (await asyncio.to_thread(proxy.page, "/healthz")).json()["release"] == name


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "LOOP"}], **more}


class Load:
    """Clients that ask again and again, and what became of it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._key = proxy.new_key()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._over = False

    async def ask(self, kind: str, request: Callable[[], Awaitable[object]]) -> None:
        """Until the load is to end."""
        while not self._over:
            try:
                await request()
                self.answers[kind] += 1
            except Exception as error:
                self.failures.append(f"{kind}: {type(error).__name__}: {error}")
            await asyncio.sleep(0.01)

    async def fresh(self) -> None:
        """A new connection each time."""
        async with self._proxy.client(self._key) as client:
            (await client.get("/v1/models")).raise_for_status()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The load goes on during the block."""
        async with (
            self._proxy.client(self._key) as first,
            self._proxy.client(self._key) as second,
            self._proxy.openai(self._key) as openai,
        ):

            async def listed(client: httpx.AsyncClient) -> None:
                (await client.get("/v1/models")).raise_for_status()

            async def asked() -> None:
                answer = await openai.chat.completions.create(
                    model="script", max_tokens=2, messages=[{"role": "user", "content": "LOOP"}]
                )
                assert answer.usage is not None
                assert answer.usage.completion_tokens == 2

            async def streamed() -> None:
                stream = await openai.chat.completions.create(
                    model="script",
                    max_tokens=3,
                    messages=[{"role": "user", "content": "LOOP"}],
                    stream=True,
                )
                assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"

            tasks = [
                asyncio.create_task(self.ask(kind, request))
                for kind, request in {
                    "kept": lambda: listed(first),
                    "kept too": lambda: listed(second),
                    "fresh": self.fresh,
                    "openai": asked,
                    "openai stream": streamed,
                }.items()
            ]
            try:
                yield
            finally:
                self._over = True
                await asyncio.gather(*tasks)


async def test_no_request_fails_over_six_reloads(releases: Releases) -> None:
    proxy = releases.proxy
    load = Load(proxy)
    async with load.running():
        for number in range(6):
            name = f"next{number}"
            proxy.models.append(model_entry(name, proxy.models[0]["backends"][0]["url"]))
            proxy.write_routes()
            releases.add(name)
            releases.use(name)
            reload(proxy)
            await reloaded(proxy, name)
            await asyncio.sleep(0.5)
    assert load.failures == []
    assert len(proxy.page("/readyz").json()["models"]) == 7
    assert all(load.answers[kind] > 20 for kind in ("kept", "fresh", "openai", "openai stream"))
    assert set(load.answers) >= {"kept", "kept too"}
    expected = sum(load.answers.values())
    # None of them is lost with the worker that answered it, and none counted twice.
    await asyncio.to_thread(wait_for, lambda: len(proxy.workers()) == 1, 40, "old workers end")
    rows = await asyncio.to_thread(proxy.rows, expected)
    assert len(rows) == expected == len({row["request_id"] for row in rows})


async def test_a_stream_goes_on_and_a_kept_connection_ends_politely(releases: Releases) -> None:
    proxy = releases.proxy
    finish = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.send(HEAD, delta("one"))
        await finish.wait()
        await call.send(delta("two"), delta("", "stop"), usage(1, 2), DONE, END)

    async with fake_backend(slow) as fake:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        key = proxy.new_key()
        async with proxy.client(key) as client, proxy.client(key) as kept:
            assert "connection" not in (await kept.get("/v1/models")).headers
            running = asyncio.create_task(client.post(CHAT, json=chat("fake", stream=True)))
            await asyncio.wait_for(fake.called.wait(), 5)
            old = proxy.workers()
            # In the queue of the old worker, which serves it although another one has taken over.
            waiting = asyncio.create_task(kept.post(CHAT, json=chat("fake", stream=True)))
            async with proxy.client(key) as idle, proxy.client(key) as asks_later:
                for some in (idle, asks_later):
                    await some.get("/v1/models")
                releases.add("two")
                releases.use("two")
                reload(proxy)
                await reloaded(proxy, "two")
                last = await asks_later.get("/v1/models")
                assert (last.status_code, last.headers["connection"]) == (200, "close")
                assert "connection" not in (await asks_later.get("/v1/models")).headers
            assert old[0] in proxy.workers()
            finish.set()
            for answer in (await running, await waiting):
                assert answer.status_code == 200
                assert answer.text.rstrip().endswith("data: [DONE]")
    await asyncio.to_thread(wait_for, lambda: old[0] not in proxy.workers(), 30, "it ends")
    statuses = Counter(row["status_code"] for row in proxy.rows(6))
    assert set(statuses) == {200}


async def test_a_revoked_key_is_refused_by_both_workers(releases: Releases) -> None:
    proxy = releases.proxy
    with proxy.admin() as connection:
        key = users.create(connection, "leaver", rate_limit=0).text
    finish = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.send(HEAD, delta("one"))
        await finish.wait()
        await call.send(delta("", "stop"), usage(1, 1), DONE, END)

    async with fake_backend(slow) as fake:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        limits = httpx.Limits(keepalive_expiry=60)
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(proxy.client(proxy.new_key()))
            running = asyncio.create_task(other.post(CHAT, json=chat("fake", stream=True)))
            await asyncio.wait_for(fake.called.wait(), 5)
            # Each connection to the old worker is good for one more request.
            kept = [
                await stack.enter_async_context(proxy.client(key, limits=limits)) for _ in range(20)
            ]
            for client in kept:
                assert (await client.get("/v1/models")).status_code == 200
            releases.add("two")
            releases.use("two")
            reload(proxy)
            await reloaded(proxy, "two")
            async with proxy.client(key) as new:
                assert (await new.get("/v1/models")).status_code == 200
                with proxy.admin() as connection:
                    users.revoke_all(connection, "leaver")
                for client in kept:
                    by_the_old = await client.get("/v1/models")
                    assert by_the_old.headers["connection"] == "close"
                    if by_the_old.status_code == 401:
                        break
                    await asyncio.sleep(0.2)
                assert by_the_old.status_code == 401
                deadline = time.monotonic() + 5
                while (by_the_new := await new.get("/v1/models")).status_code == 200:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                assert by_the_new.status_code == 401
                assert "connection" not in by_the_new.headers
            finish.set()
            await running


BROKEN = {
    "import": ("raise ImportError('no module named canary_part')", "canary_part"),
    "stuck": ("import time; time.sleep(600)", "not ready within 15 s"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL before it could"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_release_that_does_not_start_changes_nothing(releases: Releases, kind: str) -> None:
    proxy = releases.proxy
    main, reason = BROKEN[kind]
    releases.add_broken(kind, main)
    load = Load(proxy)
    async with load.running():
        before = proxy.workers()
        releases.use(kind)
        reload(proxy)
        await asyncio.to_thread(proxy.wait_for_log, "(release one) goes on")
        assert reason in proxy.log.read_text()
        assert proxy.workers() == before
        assert proxy.page("/readyz").json()["release"] == "one"
        # The way back needs nothing, and the way forward is free.
        releases.add("three")
        releases.use("three")
        reload(proxy)
        await reloaded(proxy, "three")
    assert load.failures == []


async def test_settings_or_a_database_that_are_no_good_change_nothing(releases: Releases) -> None:
    proxy = releases.proxy
    releases.add("wrong", LLAMA_PROXY_RATE_LIMIT="many")
    releases.use("wrong")
    reload(proxy)
    await asyncio.to_thread(proxy.wait_for_log, "ended with exit code 2 before it could serve")
    assert "LLAMA_PROXY_RATE_LIMIT is 'many'; expected a whole number" in proxy.log.read_text()
    # Without Postgres a new worker would know no key at all.
    releases.add("elsewhere", POSTGRES_AUTH_PORT="9")
    releases.use("elsewhere")
    reload(proxy)
    await asyncio.to_thread(proxy.wait_for_log, "was not ready within 15 s")
    assert "can't connect to Postgres at 127.0.0.1:9" in proxy.log.read_text()
    assert proxy.page("/readyz").json()["release"] == "one"


async def test_an_older_schema_is_refused_and_a_newer_one_is_not(releases: Releases) -> None:
    proxy = releases.proxy
    with proxy.admin() as connection:
        connection.execute(
            "INSERT INTO schema_migrations (version, name, sha256) VALUES (9999, '9999_later', '')"
        )
    releases.add("back")
    releases.use("back")
    reload(proxy)
    await reloaded(proxy, "back")
    assert "the database's schema is newer (9999_later)" in proxy.log.read_text()
    with proxy.admin() as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version > 1")
    releases.add("early")
    releases.use("early")
    reload(proxy)
    await asyncio.to_thread(proxy.wait_for_log, "ended with exit code 2 before it could serve")
    assert "schema is older than this release; run `./console.sh start`" in proxy.log.read_text()
    assert proxy.page("/readyz").json()["release"] == "back"


async def test_a_signal_during_a_switch_is_another_switch(releases: Releases) -> None:
    proxy = releases.proxy
    releases.add("two")
    releases.use("two")
    reload(proxy)
    await asyncio.to_thread(wait_for, lambda: len(proxy.workers()) == 2, 10, "a second worker")
    releases.add("three")
    releases.use("three")
    reload(proxy)
    await reloaded(proxy, "three")
    assert "(release two)" in proxy.log.read_text()


async def test_stop_during_a_switch(releases: Releases) -> None:
    proxy = releases.proxy
    releases.add_broken("stuck", BROKEN["stuck"][0])
    releases.use("stuck")
    reload(proxy)
    await asyncio.to_thread(wait_for, lambda: len(proxy.workers()) == 2, 10, "a second worker")
    workers = proxy.workers()
    begin = time.monotonic()
    assert await asyncio.to_thread(proxy.stop) == 0
    assert time.monotonic() - begin < 8
    assert not any(psutil.pid_exists(worker.pid) for worker in workers)


async def test_stop_after_a_switch_ends_the_old_worker_too(releases: Releases) -> None:
    proxy = releases.proxy

    async def endless(call: Call) -> None:
        await call.send(HEAD, delta("one"))
        await call.gone(60)

    async with fake_backend(endless) as fake:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        releases.add("two", LLAMA_PROXY_DRAIN_TIMEOUT_SECONDS="1")
        releases.use("two")
        reload(proxy)
        await reloaded(proxy, "two")
        async with proxy.client(proxy.new_key()) as client:
            running = asyncio.create_task(client.post(CHAT, json=chat("fake", stream=True)))
            await asyncio.wait_for(fake.called.wait(), 5)
            releases.add("three")
            releases.use("three")
            reload(proxy)
            await reloaded(proxy, "three")
            assert len(proxy.workers()) >= 2
            begin = time.monotonic()
            assert await asyncio.to_thread(proxy.stop) == 0
            assert time.monotonic() - begin < 10
            assert "server_stopping" in (await running).text
