"""Who gets in: keys, models, limits, paths and methods."""

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest

from llamakit_proxy import users
from llamakit_proxy.app import _ONE_MODEL, _TARGETS, METRICS, PUBLIC
from support.proxy import Proxy
from support.wire import exchange
from support.wire import status as status_of

CHAT = "/v1/chat/completions"
EVERY_PATH = [
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/script"),
    ("GET", "/v1/models/unknown"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/"),
    ("GET", "/v1"),
    ("GET", "/nowhere"),
    ("OPTIONS", CHAT),
    ("DELETE", "/v1/models/script"),
    ("POST", "/healthz/"),
    ("GET", "//v1/models"),
    ("GET", "/v1//models"),
    ("GET", "/v1/models/"),
    ("GET", "/healthz/../v1/models"),
    ("GET", "/%68ealthz/x"),
    ("GET", "/v1/%2e%2e/healthz"),
    ("POST", "/extras/tokenize"),
]


def ask(model: str = "script", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


def check_refusal(response: httpx.Response) -> None:
    assert response.status_code == 401, response.text
    assert response.headers["www-authenticate"].startswith("Bearer")
    error = response.json()["error"]
    assert error["code"] == "invalid_api_key"
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
async def test_every_path_needs_a_key(proxy: Proxy, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer sk-lk-aaaaaaaaaaaa-wrong"}, {"x-api-key": "x"}):
        status, head, body = await raw(proxy, method, path, headers)
        assert status == 401, path
        assert "www-authenticate: Bearer" in head
        assert json.loads(body)["error"]["code"] == "invalid_api_key"


async def test_the_list_of_public_paths_does_not_grow(proxy: Proxy, key: str) -> None:
    """A route that is added needs a key, or a line here."""
    assert {"/healthz", "/readyz"} == PUBLIC
    async with proxy.client(key) as client:
        pages = (await client.get("/openapi.json")).json()["paths"]
    assert set(pages) == {*PUBLIC, METRICS}
    for target in (*_TARGETS.values(), _ONE_MODEL):
        for method in ("GET", "POST", "PUT", "HEAD", "OPTIONS"):
            status, _, _ = await raw(proxy, method, target.template.format(model="script"), {})
            assert status == 401, (method, target.template)


GATED = ["/v1/models", "/openapi.json", "/admin/load", "/v1/models/script"]
DISGUISES = [
    "//healthz/..{path}",
    "/healthz/..{path}",
    "/healthz/%2e%2e{path}",
    "/healthz%2f..{path}",
    "/healthz%00{path}",
    "/healthz;{path}",
    "/healthz{path}",
    "/healthz/{path}",
    "/.{path}",
    "/%2e{path}",
    "/x/..{path}",
    "/{path}",
    "{path}/",
    "{path}/.",
    "{path}%2f",
    "{path}%20",
    "{path};healthz",
    "{path}?path=/healthz",
    "{path}#/healthz",
    "{path}/../healthz",
    "http://x/healthz/..{path}",
    "http://healthz{path}",
    "http://x:80{path}?/healthz",
    "http://healthz@x{path}",
]


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_no_spelling_of_a_path_gets_around_the_key(proxy: Proxy, disguise: str) -> None:
    for path in GATED:
        for host in ("x", "x/healthz", "healthz?", "x\tx", "x#@/healthz"):
            answer = await exchange(
                proxy.port,
                f"GET {disguise.format(path=path)} HTTP/1.1\r\nhost: {host}\r\n"
                "x-original-url: /healthz\r\nx-rewrite-url: /healthz\r\n"
                "x-forwarded-prefix: /healthz\r\nconnection: close\r\n\r\n".encode(),
            )
            assert status_of(answer) in (400, 401), (disguise, path, host)


@pytest.mark.parametrize(
    "path",
    ["//v1/models", "/v1/models/", "/v1//models", "/V1/models", "/v1/%2e%2e/healthz", "/docs", "/"],
)
async def test_paths_that_are_not_there(proxy: Proxy, key: str, path: str) -> None:
    status, _, body = await raw(proxy, "GET", path, {"Authorization": f"Bearer {key}"})
    assert status == 404
    assert json.loads(body)["error"]["code"] == "not_found"


async def test_hosts_and_absolute_targets_decide_nothing(proxy: Proxy, key: str) -> None:
    for target, host in (
        ("/v1/models", "x/healthz#@y"),
        ("/v1/models", "a?b"),
        ("http://x/healthz", "y"),
        ("http://x/v1/models", "y"),
    ):
        status, _, _ = await raw(proxy, "GET", target, {}, host=host)
        assert status == (200 if target.endswith("/healthz") else 401)


async def raw(
    proxy: Proxy, method: str, target: str, headers: dict[str, str], host: str = "x"
) -> tuple[int, str, bytes]:
    """A request exactly as written; no client tidies its target up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


@pytest.mark.parametrize(
    "value",
    [
        "Bearer ' OR 1=1 --",
        'Bearer " UNION SELECT',
        "Bearer sk-lk-%00",
        "Bearer " + "a" * 20_000,
        "Bearer \xff\xfe",
        "Basic YTpi",
        "bearer",
        "",
    ],
)
async def test_hostile_keys(proxy: Proxy, value: str) -> None:
    status, _, body = await raw(proxy, "GET", "/v1/models", {"Authorization": value})
    assert status == 401
    assert value[7:20] not in body.decode() or not value[7:]


async def test_two_authorization_headers_are_none(proxy: Proxy, key: str) -> None:
    async with proxy.client(key) as client:
        for values in (("x", key), (key, "x"), (key, key)):
            headers = [("Authorization", f"Bearer {value}") for value in values]
            response = await client.get("/v1/models", headers=headers)
            check_refusal(response)
            assert "didn't provide" not in response.text


async def test_disabled_expired_and_revoked_keys(proxy: Proxy) -> None:
    with proxy.admin() as admin:
        disabled = users.create(admin, "disabled")
        revoked = users.create(admin, "revoked")
        expiring = users.create(admin, "expiring", lifetime=timedelta(seconds=5))
    keys = [disabled, revoked, expiring]
    for key in keys:
        async with proxy.client(key.text) as client:
            assert (await client.get("/v1/models")).status_code == 200
    with proxy.admin() as admin:
        users.set_status(admin, "disabled", "disabled")
        users.revoke(admin, revoked.public_id)
    deadline = time.monotonic() + 10
    for key in keys:
        async with proxy.client(key.text) as client:
            while (response := await client.get("/v1/models")).status_code == 200:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)
            check_refusal(response)
    # A refused request of a known user is in the log, too.
    for _ in range(50):
        rows = await asyncio.to_thread(proxy.rows)
        refused = {row["username"] for row in rows if row["status_code"] == 401}
        if refused >= {"disabled", "revoked", "expiring"}:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(refused)


async def test_models_a_key_may_not_use(proxy: Proxy) -> None:
    key = proxy.new_key("limited", allowed_models=["embed"])
    async with proxy.client(key) as client:
        listed = (await client.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["embed"]
        # An alias is the same model.
        for name in ("script", "script.gguf"):
            for response in (
                await client.post(CHAT, json=ask(name)),
                await client.get(f"/v1/models/{name}"),
            ):
                assert response.status_code == 403
                assert response.json()["error"]["code"] == "model_not_allowed"
        embedding = await client.post("/v1/embeddings", json={"model": "embed", "input": "x"})
        assert embedding.status_code == 200


async def test_a_model_allowed_by_its_alias(proxy: Proxy) -> None:
    key = proxy.new_key("by_alias", allowed_models=["script.gguf"])
    async with proxy.client(key) as client:
        for name in ("script", "script.gguf"):
            assert (await client.get(f"/v1/models/{name}")).status_code == 200
        assert (await client.get("/v1/models/embed")).status_code == 403


@pytest.mark.parametrize("name", ["nothing", "Script", "script ", "../script", "scr\u0456pt"])
async def test_unknown_models(proxy: Proxy, key: str, name: str) -> None:
    async with proxy.client(key) as client:
        response = await client.post(CHAT, json=ask(name))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["param"] == "model"


async def test_models_on_the_wrong_path(proxy: Proxy, key: str) -> None:
    async with proxy.client(key) as client:
        for path, body in (
            (CHAT, ask("embed")),
            ("/v1/completions", {"model": "embed", "prompt": "x"}),
            ("/v1/embeddings", {"model": "script", "input": "x"}),
        ):
            response = await client.post(path, json=body)
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "model_not_supported"


async def test_rate_limit(proxy: Proxy) -> None:
    key = proxy.new_key("eager", rate_limit=3, rate_window_seconds=2)
    async with proxy.client(key) as client:
        seen = []
        for left in (2, 1, 0):
            response = await client.get("/v1/models")
            assert response.status_code == 200
            assert response.headers["x-ratelimit-limit-requests"] == "3"
            assert response.headers["x-ratelimit-remaining-requests"] == str(left)
            seen.append(response.headers["x-ratelimit-reset-requests"])
        assert all(reset in ("2s", "3s", "2.1s") for reset in seen)
        refused = await client.post(CHAT, json=ask())
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        wait = int(refused.headers["retry-after"])
        assert 1 <= wait <= 3
        await asyncio.sleep(wait)
        assert (await client.get("/v1/models")).status_code == 200
    rows = await asyncio.to_thread(proxy.rows, 5)
    assert any(row["error_code"] == "rate_limit_exceeded" for row in rows)


async def test_rate_limit_holds_in_parallel(proxy: Proxy) -> None:
    key = proxy.new_key("parallel", rate_limit=10, rate_window_seconds=60)
    async with proxy.client(key) as client:
        answers = await asyncio.gather(*(client.get("/v1/models") for _ in range(60)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 10
    assert statuses.count(429) == 50


async def test_methods(proxy: Proxy, key: str) -> None:
    async with proxy.client(key) as client:
        for method, path, allow in (
            ("GET", CHAT, "POST, OPTIONS"),
            ("PUT", "/v1/embeddings", "POST, OPTIONS"),
            ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
            ("DELETE", "/v1/models/script", "GET, HEAD, OPTIONS"),
            ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
        ):
            response = await client.request(method, path)
            assert response.status_code == 405
            assert response.headers["allow"] == allow
            assert response.json()["error"]["code"] == "method_not_allowed"
        options = await client.options(CHAT, headers={"Origin": "https://evil.example"})
        assert (options.status_code, options.headers["allow"]) == (200, "POST, OPTIONS")
        page = await client.options("/openapi.json")
        assert (page.status_code, page.headers["allow"]) == (200, "GET, HEAD, OPTIONS")
        assert not any(name.startswith("access-control") for name in options.headers)
        page = await client.post("/healthz")
        assert page.status_code == 405
        assert set(page.headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert page.json()["error"]["message"] == "Method Not Allowed"
        head = await client.head("/v1/models")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0


async def test_health_needs_no_key_and_metrics_only_here(proxy: Proxy, key: str) -> None:
    async with httpx.AsyncClient(base_url=proxy.url) as client:
        assert (await client.get("/healthz")).json() == {"status": "alive", "release": None}
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["models"]["script"] == "up"
        assert ready.json()["database"] == "up"
        metrics = await client.get("/metrics")
        assert "gen_ai_server_time_to_first_token_seconds" in metrics.text
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
            assert (await client.get("/metrics", headers={header: "1.2.3.4"})).status_code == 401
    async with proxy.client(key) as client:
        assert (await client.get("/openapi.json")).status_code == 200


async def test_answers_are_traceable_and_say_little(proxy: Proxy, key: str) -> None:
    async with proxy.client(key) as client:
        response = await client.get("/v1/models", headers={"X-Request-ID": "mine\x7f"[:4]})
    assert response.headers["x-request-id"].startswith("req_")
    assert "server" not in response.headers
    assert len(response.headers.get_list("date")) == 1


async def test_rows(proxy: Proxy) -> None:
    key = proxy.new_key("counted")
    async with proxy.client(key) as client:
        whole = await client.post(CHAT, json=ask())
        await client.post(CHAT, json=ask(stream=True))
        await client.post(CHAT, json=ask("nothing"))
        await client.get("/nowhere/canary")
        await client.post("/v1/embeddings", json={"model": "embed", "input": "x"})
    name = proxy_user(key, proxy)
    for _ in range(50):
        rows = [row for row in await asyncio.to_thread(proxy.rows) if row["username"] == name]
        if len(rows) == 5:
            break
        await asyncio.sleep(0.1)
    chat, stream, missing, nowhere, embedding = rows
    usage = whole.json()["usage"]
    for row in (chat, stream):
        assert (row["path"], row["model"], row["status_code"]) == (CHAT, "script", 200)
        assert row["prompt_tokens"] == usage["prompt_tokens"]
        assert row["completion_tokens"] == usage["completion_tokens"]
        assert row["ttft_ms"] > 0
        assert row["queue_ms"] >= 0
        assert row["request_bytes"] > 0
        assert row["response_bytes"] > 0
    assert chat["request_id"] == whole.headers["x-request-id"]
    assert (chat["stream"], stream["stream"]) == (False, True)
    assert (missing["status_code"], missing["error_code"]) == (404, "model_not_found")
    assert missing["model"] is None
    assert (nowhere["status_code"], nowhere["path"]) == (404, "(unknown)")
    assert (embedding["path"], embedding["completion_tokens"]) == ("/v1/embeddings", 0)
    assert embedding["prompt_tokens"] > 0


def proxy_user(key: str, proxy: Proxy) -> str:
    """The name of the user whose key this is."""
    with proxy.admin() as admin:
        public_id = key.split("-")[2]
        query = (
            "SELECT username FROM users JOIN api_keys ON user_id = users.id WHERE public_id = %s"
        )
        row = admin.execute(query, (public_id,)).fetchone()
    assert row is not None
    return str(row[0])
