"""What a key is for: inference, metrics, the view of the load; and how fast that changes."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from llamakit_proxy import users
from llamakit_proxy.scopes import SCOPES
from support.backend import KEY
from support.fake_backend import DONE, END, HEAD, Call, delta, fake_backend, usage
from support.proxy import Proxy

CHAT = "/v1/chat/completions"
LOAD = "/admin/load"
ELSEWHERE = {"X-Forwarded-For": "1.2.3.4"}
"""With this, no client counts as one on this machine."""

_NO_TIME = timedelta()
_HOUR = timedelta(hours=1)

# path: the scope it takes, and what a key with that scope gets
PATHS = {
    "/v1/models": ("inference", 200),
    "/v1/models/script": ("inference", 200),
    "/v1/nowhere": ("inference", 404),
    CHAT: ("inference", 405),
    "/metrics": ("metrics", 200),
    LOAD: ("admin", 200),
    "/admin/nowhere": ("admin", 404),
}


@pytest.mark.parametrize("scope", SCOPES)
async def test_each_path_takes_one_scope(proxy: Proxy, scope: str) -> None:
    key = proxy.new_key("scoped", scopes=[scope])
    async with proxy.client(key) as client:
        client.headers.update(ELSEWHERE)
        for path, (needed, status) in PATHS.items():
            response = await client.get(path)
            if scope == needed:
                assert response.status_code == status, path
                continue
            assert response.status_code == 403, path
            error = response.json()["error"]
            assert error["code"] == "insufficient_scope"
            assert f"'{needed}'" in error["message"]
            assert f"user rotate scoped{proxy._created} --scopes " in error["message"]
            assert needed in error["message"].split("--scopes ")[1].split(",")
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404
        response = await client.post(CHAT, json={"model": "script", "messages": []})
        assert response.status_code == (400 if scope == "inference" else 403)


async def test_metrics_without_a_key_only_here(proxy: Proxy) -> None:
    async with httpx.AsyncClient(base_url=proxy.url) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/metrics", headers=ELSEWHERE)).status_code == 401


async def test_scopes_change_while_a_key_is_in_use(proxy: Proxy) -> None:
    key = proxy.new_key("changing")
    public_id = key.split("-")[2]
    async with proxy.client(key) as client:
        assert (await client.get(LOAD)).status_code == 403
        for scopes, status in (("{inference,admin}", 200), ("{metrics}", 403)):
            with proxy.admin() as admin:
                admin.execute(
                    "UPDATE api_keys SET scopes = %s WHERE public_id = %s", (scopes, public_id)
                )
            deadline = time.monotonic() + 5
            while (await client.get(LOAD)).status_code != status:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        assert (await client.get("/v1/models")).status_code == 403


@pytest.mark.parametrize("scopes", ["{}", "{root}", "{inference,NULL}", "{Admin}", None])
async def test_the_database_holds_no_other_scopes(proxy: Proxy, scopes: str | None) -> None:
    proxy.new_key("strict")
    with proxy.admin() as admin, pytest.raises(psycopg.errors.IntegrityError):
        admin.execute("UPDATE api_keys SET scopes = %s", (scopes,))


async def test_the_load_says_who_holds_and_who_waits(proxy: Proxy) -> None:
    go = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.send(HEAD, delta("canary-of-the-answer"))
        await go.wait()
        await call.send(delta("", "stop"), usage(1, 1), DONE, END)

    alice, bob = proxy.new_key("alice"), proxy.new_key("bob")
    watcher = proxy.new_key("watcher", scopes=["admin"], rate_limit=0)
    names = [f"{name}{proxy._created - back}" for name, back in (("alice", 2), ("bob", 1))]
    body = {"messages": [{"role": "user", "content": "canary-of-the-prompt"}]}
    async with fake_backend(slow) as fake:
        await asyncio.to_thread(proxy.route, "slow", fake.url)

        async def ask(key: str, stream: bool) -> httpx.Response:
            async with proxy.client(key) as client:
                return await client.post(CHAT, json={**body, "model": "slow", "stream": stream})

        async with proxy.client(watcher) as client:
            first = asyncio.create_task(ask(alice, True))
            await fake.called.wait()
            second = asyncio.create_task(ask(bob, False))
            deadline = time.monotonic() + 10
            while True:
                answer = await client.get(LOAD)
                load = answer.json()
                if load["models"]["slow"]["queued"] == 1:
                    break
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            go.set()
            finished = await asyncio.gather(first, second)
            after = (await client.get(LOAD)).json()["models"]["slow"]
    assert [response.status_code for response in finished] == [200, 200]
    slow_model = load["models"]["slow"]
    assert (slow_model["running"], slow_model["queued"]) == (1, 1)
    requests = slow_model["requests"]
    assert [(one["user"], one["phase"], one["stream"]) for one in requests] == [
        (names[0], "running", True),
        (names[1], "queued", False),
    ]
    for one, key, response in zip(requests, (alice, bob), finished, strict=True):
        assert one["key_id"] == key.split("-")[2]
        assert one["request_id"] == response.headers["x-request-id"]
        assert 0 <= one["seconds"] < 60
        since = datetime.fromisoformat(one["since"])
        assert abs((datetime.now(UTC) - since).total_seconds()) < 60
    assert load["models"]["script"] == {"running": 0, "queued": 0, "requests": []}
    assert load["in_flight"] >= 3
    assert (load["database"], load["keys"]["state"]) == ("up", "current")
    assert load["keys"]["remembered"] >= 3
    assert load["log"]["rows_dropped"] == 0
    for canary in ("canary-of", alice, bob, watcher, KEY):
        assert canary not in json.dumps(load)
    assert after == {"running": 0, "queued": 0, "requests": []}


async def test_a_user_who_left_is_not_in_the_load(proxy: Proxy) -> None:
    async def stuck(call: Call) -> None:
        await call.send(HEAD, delta("one"))
        await call.gone(30)

    key = proxy.new_key("leaving")
    watcher = proxy.new_key("watcher", scopes=["admin"])
    async with fake_backend(stuck) as fake, proxy.client(watcher) as watching:
        await asyncio.to_thread(proxy.route, "stuck", fake.url)
        async with proxy.client(key) as client:
            messages = [{"role": "user", "content": "x"}]
            body = {"model": "stuck", "stream": True, "messages": messages}
            async with client.stream("POST", CHAT, json=body) as response:
                assert response.status_code == 200
                load = (await watching.get(LOAD)).json()["models"]["stuck"]
                assert len(load["requests"]) == load["running"] == 1
        deadline = time.monotonic() + 5
        while (await watching.get(LOAD)).json()["models"]["stuck"]["requests"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


def test_rotating_keeps_the_scopes_of_the_key_in_use(proxy: Proxy) -> None:
    with proxy.admin() as admin:
        users.create(admin, "operator", scopes=["metrics", "inference", "metrics"])
        operator = users.get(admin, "operator")
        users.rotate(admin, "operator", overlap=_NO_TIME, scopes=["admin"])
        users.rotate(admin, "operator", overlap=_HOUR)
        users.rotate(admin, "operator", overlap=_HOUR, scopes=["inference"])
        narrow = users.list_keys(admin, operator)
        users.revoke_all(admin, "operator")
        users.rotate(admin, "operator", overlap=_NO_TIME)
        assert [key.scopes for key in narrow] == [
            ["inference", "metrics"],
            ["admin"],
            ["admin"],
            ["inference"],
        ]
        assert users.list_keys(admin, operator)[-1].scopes == ["inference"]
