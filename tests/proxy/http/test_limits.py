"""Requests, in a window and at once: on two proxies that are as two hosts, and over restarts."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai

from llamakit_proxy import users
from llamakit_proxy.allowance import Kind
from llamakit_proxy.ledger import SHARES
from support.chats import ask
from support.fake_backend import fake_backend, three_and_wait
from support.log_rows import until
from support.postgres import Postgres, running_postgres
from support.processes import wait_for
from support.proxy import Proxy, running_proxy
from support.spent import spent

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"


async def count(proxies: list[Proxy], key: str, times: int) -> Counter[int]:
    """Statuses of so many requests to each proxy, all at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(statuses(proxy, key, part)) for proxy in proxies for part in [times]
        ]
    return sum((task.result() for task in tasks), Counter[int]())


async def statuses(proxy: Proxy, key: str, times: int) -> Counter[int]:
    async with proxy.client(key) as client:
        answers = await asyncio.gather(*(client.get(MODELS) for _ in range(times)))
    return Counter(answer.status_code for answer in answers)


async def exhaust(proxies: list[Proxy], key: str, left: int, at_once: int = 20) -> Counter[int]:
    """Statuses of requests until ``left`` were granted, and of some more that should not be."""
    total = await count(proxies, key, at_once)
    # A busy machine may not get idle leases back in time; they come with the next ones.
    deadline = time.monotonic() + 10
    while total[200] < left and time.monotonic() < deadline:
        total += await count(proxies, key, 5)
    return total + await count(proxies, key, at_once)


async def granted(proxy: Proxy, key: str) -> None:
    """Ask until a request is granted; refusals cost nothing."""
    deadline = time.monotonic() + 10
    while not (await statuses(proxy, key, 1))[200]:
        assert time.monotonic() < deadline, "every request was refused"
        await asyncio.sleep(0.05)


async def up_to_date(proxies: list[Proxy]) -> None:
    """Until each host knows what has changed: a change that comes last is known last."""
    key = proxies[0].new_key("last")
    assert (await count(proxies, key, 1))[200] == len(proxies)
    with proxies[0].admin() as admin:
        users.revoke(admin, key.split("-")[2])
    for proxy in proxies:
        deadline = time.monotonic() + 5
        while not (await statuses(proxy, key, 1))[401]:
            assert time.monotonic() < deadline, "the change is not known"
            await asyncio.sleep(0.02)


async def remaining(proxy: Proxy, key: str) -> int:
    """What the account has left beside what was spent, asked from outside."""
    async with proxy.client(key) as client:
        response = await client.get(MODELS)
    return int(response.headers["x-ratelimit-remaining-requests"])


# -- requests ------------------------------------------------------------------------------------


async def test_two_hosts_hammered_reach_the_limit_and_never_exceed_it(pair: list[Proxy]) -> None:
    key = pair[0].new_key("hammer", rate_limit=100, rate_window_seconds=600)
    total = await exhaust(pair, key, 100, at_once=150)
    assert set(total) == {200, 429}
    assert total[200] == 100


async def test_the_last_request_is_one_requests(pair: list[Proxy]) -> None:
    key = pair[0].new_key("last", rate_limit=7, rate_window_seconds=600)
    for number in range(6):
        await granted(pair[number % 2], key)
    assert (await exhaust(pair, key, 1))[200] == 1


async def test_what_one_host_has_in_stock_another_gets(pair: list[Proxy]) -> None:
    key = pair[0].new_key("stock", rate_limit=40, rate_window_seconds=600)
    assert (await statuses(pair[0], key, 1))[200] == 1
    assert (await exhaust(pair[1:], key, 39, at_once=45))[200] == 39


async def test_users_far_from_their_limit_cost_no_round_trip(
    postgres: Postgres, pair: list[Proxy]
) -> None:
    key = pair[0].new_key("far", rate_limit=100_000, rate_window_seconds=60)
    free = pair[0].new_key("free")
    for of in (key, free):
        assert (await statuses(pair[0], of, 1))[200] == 1
    before = postgres.log.read_text().count("settle_limits")
    async with pair[0].client(key) as limited, pair[0].client(free) as unlimited:
        began = time.monotonic()
        for _ in range(150):
            assert (await limited.get(MODELS)).status_code == 200
            assert (await unlimited.get(MODELS)).status_code == 200
        seconds = time.monotonic() - began
    after = postgres.log.read_text().count("settle_limits")
    # Reports go out by the clock, a few log lines each, not by the request.
    assert after - before <= 12 * (1 + seconds)


async def test_every_path_costs_one_request(pair: list[Proxy]) -> None:
    key = pair[0].new_key("paths", rate_limit=50, rate_window_seconds=600)
    chat: dict[str, Any] = ask(max_tokens=1)
    async with pair[0].client(key) as client:
        requests: list[Callable[[], Awaitable[httpx.Response]]] = [
            lambda: client.post(CHAT, json=chat),
            lambda: client.post(CHAT, json={**chat, "stream": True}),
            lambda: client.post(CHAT, json={**chat, "model": "script.gguf"}),
            lambda: client.post("/v1/completions", json={"model": "script", "prompt": "x"}),
            lambda: client.post("/v1/embeddings", json={"model": "embed", "input": "x"}),
            lambda: client.get(f"{MODELS}/script"),
            lambda: client.get("/nowhere"),
            lambda: client.put(CHAT, json=chat),
            lambda: client.post(CHAT, json={}),
        ]
        for number, request in enumerate(requests, 1):
            response = await request()
            assert response.headers["x-ratelimit-remaining-requests"] == str(50 - number)
        assert await remaining(pair[0], key) == 50 - len(requests) - 1


async def test_refused_requests_and_retries_cost_nothing(pair: list[Proxy]) -> None:
    key = pair[0].new_key("again", rate_limit=2, rate_window_seconds=2)
    client = openai.AsyncOpenAI(base_url=f"{pair[0].url}/v1", api_key=key, max_retries=3)
    async with client:
        for _ in range(5):
            await client.models.list()

    def codes() -> Counter[int]:
        rows = [row for row in pair[0].rows() if row["username"].startswith("again")]
        return Counter(row["status_code"] for row in rows)

    await asyncio.to_thread(wait_for, lambda: codes()[200] == 5, 10, "five rows")
    assert codes()[429] >= 2


async def test_retry_after_is_true(pair: list[Proxy]) -> None:
    key = pair[0].new_key("wait", rate_limit=2, rate_window_seconds=5)
    assert (await count(pair[:1], key, 3)) == {200: 2, 429: 1}
    async with pair[0].client(key) as client:
        refused = await client.get(MODELS)
        assert refused.json()["error"]["type"] == "requests"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        await asyncio.sleep(int(refused.headers["retry-after"]))
    assert (await statuses(pair[1], key, 1))[200] == 1


async def test_another_limit_holds_everywhere(pair: list[Proxy]) -> None:
    key = pair[0].new_key("changed", rate_limit=10, rate_window_seconds=600)
    assert (await count(pair, key, 3))[200] == 6
    with pair[0].admin() as admin:
        name = next(u.username for u in users.list_users(admin) if u.username.startswith("changed"))
        users.set_limits(admin, name, {"rate_limit": 8})
        await up_to_date(pair)
        assert (await exhaust(pair, key, 2))[200] == 2
        users.set_limits(admin, name, {"rate_limit": 9, "max_concurrent": 100})
        await up_to_date(pair)
        assert (await exhaust(pair, key, 1))[200] == 1
        users.set_limits(admin, name, {"rate_limit": 0})
        await up_to_date(pair)
        assert (await count(pair, key, 10))[200] == 20


# -- restarts ------------------------------------------------------------------------------------


async def test_a_killed_worker_forgets_nothing(own: Proxy) -> None:
    key = own.new_key("killed", rate_limit=40, rate_window_seconds=600)
    assert (await statuses(own, key, 12))[200] == 12
    (worker,) = own.workers()
    worker.send_signal(signal.SIGKILL)
    await asyncio.to_thread(wait_for, lambda: serves(own, worker.pid), 30, "another worker")
    again = (await statuses(own, key, 60))[200]
    # What it had leased and not spent counts as spent: a share of what was free then.
    assert 28 - 40 // SHARES[Kind.REQUESTS] <= again <= 28


def serves(proxy: Proxy, before: int) -> bool:
    workers = [worker.pid for worker in proxy.workers()]
    try:
        return before not in workers and proxy.page("/healthz").status_code == 200
    except httpx.TransportError:
        return False


async def test_a_reload_forgets_nothing_and_loses_nothing(own: Proxy) -> None:
    key = own.new_key("reloaded", rate_limit=30, rate_window_seconds=600, day_budget=10_000)
    assert own.process is not None
    total = await statuses(own, key, 10)
    old = own.workers()[0].pid
    own.process.send_signal(signal.SIGHUP)
    while own.workers()[-1].pid == old or "serves" not in own.log.read_text().splitlines()[-1]:
        total += await statuses(own, key, 1)
        if total[200] >= 20:
            break
    await asyncio.to_thread(wait_for, lambda: len(own.workers()) >= 1, 20, "a worker")
    deadline = time.monotonic() + 20
    while total[200] < 30 and time.monotonic() < deadline:
        total += await statuses(own, key, 3)
    total += await statuses(own, key, 20)
    assert total[200] == 30


async def test_a_stop_gives_back_what_was_not_spent(own: Proxy) -> None:
    key = own.new_key("stopped", rate_limit=40, rate_window_seconds=600)
    assert (await statuses(own, key, 3))[200] == 3
    assert await asyncio.to_thread(own.stop) == 0
    await asyncio.to_thread(own.start)
    assert (await statuses(own, key, 50))[200] == 37


async def test_without_postgres_a_process_gives_no_more_than_the_limit(tmp_path: Path) -> None:
    with running_postgres() as server, running_proxy(server, tmp_path, []) as proxy:
        key = proxy.new_key("alone", rate_limit=30, rate_window_seconds=600, max_concurrent=50)
        free = proxy.new_key("free", rate_limit=1000)
        assert (await statuses(proxy, key, 5))[200] == 5
        assert (await statuses(proxy, free, 1))[200] == 1
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        # First what is leased, then alone.
        total = await statuses(proxy, key, 3)
        assert (await statuses(proxy, free, 50))[200] == 50
        total += await statuses(proxy, key, 40)
        assert total[200] == 25
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(wait_for, lambda: spent(proxy, "requests") >= 81, 20, "a report")
        assert (await statuses(proxy, key, 10))[429] == 10


# -- at once -------------------------------------------------------------------------------------


async def test_requests_at_once(pair: list[Proxy]) -> None:
    key = pair[0].new_key("parallel", max_concurrent=2)
    fine = pair[0].new_key("other", max_concurrent=2)
    async with fake_backend(three_and_wait) as fake:
        for proxy in pair:
            await asyncio.to_thread(proxy.route, "fake", fake.url)
        async with pair[0].client(key) as first, pair[1].client(key) as second:
            # One on each host.
            running = [
                asyncio.create_task(client.post(CHAT, json=ask("fake")))
                for client in (first, second)
            ]
            await until(lambda: len(fake.calls) == 2, 10)
            for client in (first, second):
                refused = await client.get(MODELS)
                assert refused.status_code == 429
                assert refused.json()["error"]["code"] == "rate_limit_exceeded"
                assert refused.headers["retry-after"] == "1"
            assert (await statuses(pair[1], fine, 1))[200] == 1
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for proxy in (*pair, *pair):
                await granted(proxy, key)


async def test_one_at_a_time_is_served_by_any_host_in_turn(pair: list[Proxy]) -> None:
    key = pair[0].new_key("single", max_concurrent=1)
    for number in range(20):
        assert (await statuses(pair[number % 2], key, 1))[200] == 1


async def test_a_refusal_for_the_rate_gives_the_place_back(pair: list[Proxy]) -> None:
    key = pair[0].new_key("both", max_concurrent=1, rate_limit=1, rate_window_seconds=600)
    assert (await statuses(pair[0], key, 1))[200] == 1
    for _ in range(5):
        assert (await statuses(pair[0], key, 1))[429] == 1
    with pair[0].admin() as admin:
        name = next(u.username for u in users.list_users(admin) if u.username.startswith("both"))
        users.set_limits(admin, name, {"rate_limit": 1000})
    await granted(pair[0], key)
