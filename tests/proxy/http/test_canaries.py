"""Keys and prompts that turn up nowhere else, and people who stay apart."""

import asyncio
import hashlib
import hmac
import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llamakit_proxy import auth, keys, users
from llamakit_proxy.auth import KeyStore, RefusedKeyError
from llamakit_proxy.settings import Settings
from support.backend import KEY
from support.bearers import HOSTILE, bearer
from support.fake_backend import DONE, END, HEAD, Call, delta, fake_backend, usage
from support.postgres import Postgres
from support.proxy import Proxy

CHAT = "/v1/chat/completions"
PROMPT = "canary-of-a-prompt-9c1e"
BACKEND = "canary-of-a-backend-51aa"


async def test_no_key_and_no_prompt_turns_up_anywhere(proxy: Proxy, postgres: Postgres) -> None:
    """Good, limited, revoked, unknown and malformed keys, in the header that is meant for them and
    in all others, through every kind of error; then a look at all that is written or shown."""
    good = proxy.new_key("canary")
    scoped = proxy.new_key("canary", scopes=["metrics"])
    limited = proxy.new_key("canary", rate_limit=1, rate_window_seconds=600)
    narrow = proxy.new_key("canary", allowed_models=["embed"])
    revoked = proxy.new_key("canary")
    with proxy.admin() as admin:
        users.revoke(admin, revoked.split("-")[2])
    unknown = keys.generate().text
    cut = good[:-1]
    sent = [good, scoped, limited, narrow, revoked, unknown, cut]

    async def fails(call: Call) -> None:
        body = json.dumps({"error": {"message": f"{BACKEND} {call.body}"}}).encode()
        await call.send(b"HTTP/1.1 500 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def breaks(call: Call) -> None:
        await call.send(HEAD, delta("one"))
        raise ConnectionError

    shown: list[httpx.Response] = []
    async with fake_backend(fails) as failing, fake_backend(breaks) as breaking:
        await asyncio.to_thread(proxy.route, "fails", failing.url)
        await asyncio.to_thread(proxy.route, "breaks", breaking.url)
        for key in sent:
            async with proxy.client(key) as client:
                client.headers.update({"X-Api-Key": key, "Cookie": f"k={key}", "User-Agent": key})
                client.headers.update({"Proxy-Authorization": f"Bearer {key}", "Referer": key})
                paths = ["/v1/models", "/metrics", "/admin/load", f"/{key}", f"/v1/models/{key}",
                         "/healthz", "/readyz", "/openapi.json"]  # fmt: skip
                shown += [await client.get(path, params={"api_key": key}) for path in paths]
                shown += [
                    await client.post(CHAT, json={"model": model, **body})
                    for body in _bodies(key)
                    for model in ("script", "fails", "breaks", "embed", key)
                ]
    statuses = {response.status_code for response in shown}
    assert statuses >= {200, 400, 401, 403, 404, 429, 502}
    assert 500 not in statuses
    for call in (*failing.calls, *breaking.calls):
        # What a client said is the backend's to see; who it was, and with which key, is not.
        assert set(call.headers) == {"content-length", "host", "content-type", "authorization"}
        assert call.headers["authorization"] == f"bearer {KEY}"
    async with proxy.client(good) as client:
        shown.append(await client.get("/v1/models"))
    # Asked last, written last.
    last = shown[-1].headers["x-request-id"]
    await asyncio.to_thread(proxy.wait_for_log, last)
    await asyncio.to_thread(proxy.row, last)

    answers = "\n".join(str(response.headers) + response.text for response in shown)
    listed = await asyncio.to_thread(_processes, proxy)
    with proxy.admin() as admin:
        rows = str(admin.execute("SELECT * FROM llama_requests").fetchall())
    metrics = proxy.page("/metrics").text
    for name, text in (
        ("an answer", answers),
        ("the log", proxy.log.read_text()),
        ("the metrics", metrics),
        ("the request log", rows),
        ("the database's log", postgres.log.read_text()),
        ("an argument or a variable", listed),
    ):
        for key in sent:
            assert key.split("-")[3] not in text, f"a key is in {name}"
        assert PROMPT not in text, f"a prompt is in {name}"
        assert BACKEND not in text, f"the backend's words are in {name}"
        if name != "an argument or a variable":
            assert KEY not in text, f"the backend's key is in {name}"
    assert good.split("-")[2] in rows


def _bodies(key: str) -> list[dict[str, Any]]:
    """Requests that hold the key and the canary in all places, most of them wrong."""
    text = f"{PROMPT} {key}"
    messages = [{"role": "user", "content": text}]
    return [
        {"messages": messages, "max_tokens": 1},
        {"messages": messages, "stream": True, "max_tokens": 1},
        {"messages": messages, key: 1},
        {"messages": messages, "stop": {"a": text}},
        {"messages": messages, "temperature": text},
        {"messages": [{"role": text, "content": text}]},
        {"messages": messages, "response_format": {"type": text}},
        {"messages": messages, "tools": [{"type": "function", "function": {"name": text}}]},
        {"messages": [{"role": "user", "content": text * 3000}]},
    ]


def _processes(proxy: Proxy) -> str:
    """The arguments and the environments of the proxy's processes."""
    assert proxy.process is not None
    found = [psutil.Process(proxy.process.pid), *proxy.workers()]
    return "\n".join(
        Path(f"/proc/{one.pid}/{what}").read_bytes().decode(errors="replace")
        for one in found
        for what in ("cmdline", "environ")
    )


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what was compared in constant time."""
    seen: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append(len(one) + len(other))
        return hmac.compare_digest(one, other)

    class Hmac:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(auth, "hmac", Hmac)
    return seen


async def test_every_well_formed_key_is_compared_once_and_alike(
    settings: Settings, compared: list[int]
) -> None:
    """Known, unknown, disabled, revoked, with a secret that is wrong early or late: the same work.
    A clock on a shared machine proves less than that the same lines run."""
    from llamakit_proxy.database import Role, connect

    with connect(settings, Role.ADMIN) as admin:
        good = users.create(admin, "good")
        disabled = users.create(admin, "disabled")
        users.set_status(admin, "disabled", "disabled")
        revoked = users.create(admin, "revoked")
        users.revoke(admin, revoked.public_id)
    store = KeyStore(settings)
    await store.start()
    early = good.text[:19] + ("2" if good.text[19] != "2" else "3") + good.text[20:]
    late = good.text[:-1] + ("2" if good.text[-1] != "2" else "3")
    presented = [good, disabled, revoked, keys.generate()]
    presented += [keys.NewKey(good.public_id, text) for text in (early, late)]
    for key in presented * 2:
        before = len(compared)
        try:
            await store.authenticate(bearer(key))
        except RefusedKeyError:
            assert key is not good
        assert compared[before:] == [64], key.public_id
    compared.clear()
    for header in HOSTILE:
        with pytest.raises(RefusedKeyError):
            await store.authenticate(header)
    assert compared == []
    await store.close()


async def test_keys_of_one_prefix_are_different_people(settings: Settings) -> None:
    """LiteLLM's cache knew a token by its first twenty characters. Here two people have keys that
    share 57 of 59, and one has a key with another's whole secret."""
    from llamakit_proxy.database import Role, connect

    alphabet = keys.ALPHABET
    secret = "".join(secrets.choice(alphabet) for _ in range(keys.SECRET_LENGTH))
    texts = {
        "alice": f"sk-lk-ABCDEFGHJKLM-{secret}",
        "bob": f"sk-lk-ABCDEFGHJKLN-{secret}",
        "carol": f"sk-lk-2BCDEFGHJKLM-{secret}",
    }
    with connect(settings, Role.ADMIN) as admin:
        for name, text in texts.items():
            users.create(admin, name)
            admin.execute(
                "UPDATE api_keys SET public_id = %s, sha256 = %s FROM users"
                " WHERE users.id = user_id AND username = %s",
                (text.split("-")[2], hashlib.sha256(text.encode()).digest(), name),
            )
    store = KeyStore(settings)
    await store.start()
    for _ in range(2):
        for name, text in texts.items():
            identity = await store.authenticate(f"Bearer {text}".encode())
            assert identity.username == name
    # The id of one with the secret of nobody, or cut where a shorter look would end.
    for text in (texts["alice"][:-1] + "2", texts["alice"][:-1] + "3", texts["bob"][:-1]):
        if text not in texts.values():
            with pytest.raises(RefusedKeyError):
                await store.authenticate(f"Bearer {text}".encode())
    await store.close()


async def test_one_user_sees_nothing_of_another(proxy: Proxy) -> None:
    """There is no path with a user in it; what depends on the user depends on the key alone."""

    async def answers(call: Call) -> None:
        await call.send(HEAD, delta("x"), delta("", "stop"), usage(7, 3), DONE, END)

    alice = proxy.new_key("alice", allowed_models=["private"])
    bob = proxy.new_key("bob", rate_limit=50, allowed_models=["script"])
    body = {"model": "private", "messages": [{"role": "user", "content": PROMPT}], "user": "bob"}
    async with fake_backend(answers) as fake:
        await asyncio.to_thread(proxy.route, "private", fake.url)
        async with proxy.client(alice) as client:
            first = await client.post(CHAT, json=body)
            assert first.status_code == 200
        request_id, answer_id = first.headers["x-request-id"], first.json()["id"]
        async with proxy.client(bob) as client:
            seen = [await client.get("/v1/models")]
            for path in (
                "/admin/load", "/metrics", "/v1/usage", f"/v1/usage?user={proxy._created}",
                f"/v1/chat/completions/{answer_id}", f"/v1/requests/{request_id}", "/v1/files",
                f"/v1/responses/{answer_id}", "/v1/models/private", "/slots", "/props",
                "/v1/organization/usage/completions", "/v1/organization/users",
            ):  # fmt: skip
                response = await client.get(path, headers={"X-Forwarded-For": "1.2.3.4"})
                assert response.status_code in (403, 404, 405), path
                seen.append(response)
            # Naming the other changes nothing.
            more = {"OpenAI-Organization": "alice", "X-User": "alice", "X-Key-Id": alice}
            response = await client.post(CHAT, json=body, headers=more)
            assert response.status_code == 403
            seen.append(response)
    for response in seen:
        for secret in (PROMPT, request_id, answer_id, alice, alice.split("-")[2], "alice"):
            assert secret not in response.text
    assert [model["id"] for model in seen[0].json()["data"]] == ["script"]
    assert seen[0].headers["x-ratelimit-limit-requests"] == "50"
