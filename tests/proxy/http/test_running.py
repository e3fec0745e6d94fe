"""The process: reload, stop, heartbeats, start without what it needs."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.backend import Backend, free_port
from support.fake_backend import DONE, END, HEAD, Call, Paused, delta, fake_backend, usage
from support.postgres import Postgres
from support.processes import wait_for
from support.proxy import Proxy, model_entry, new_proxy, running_proxy

CHAT = "/v1/chat/completions"


@pytest.fixture
def own(postgres: Postgres, tmp_path: Path, chat_backend: Backend) -> Iterator[Proxy]:
    """A proxy that a test may stop and start."""
    models = [model_entry("script", chat_backend.url, n_ctx=8192, max_tokens=8000)]
    with running_proxy(postgres, tmp_path, models, LLAMA_PROXY_DRAIN_TIMEOUT_SECONDS="3") as proxy:
        yield proxy


def ask(model: str = "fake", text: str = "LOOP", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "stream": True, **more}


async def test_reload_does_not_disturb_a_stream(own: Proxy) -> None:
    paused = Paused()
    async with fake_backend(paused) as fake, own.client(own.new_key()) as client:
        await asyncio.to_thread(own.route, "fake", fake.url)
        task = asyncio.create_task(client.post(CHAT, json=ask()))
        await asyncio.wait_for(fake.called.wait(), 5)
        assert (await client.get("/v1/models/second")).status_code == 404
        await asyncio.to_thread(own.route, "second", f"http://127.0.0.1:{free_port()}")
        assert (await client.get("/v1/models/second")).status_code == 200
        own.settings.routes_path.write_text("{ not json")
        await asyncio.to_thread(own.wait_for_log, "the old routes stay in force")
        assert (await client.get("/v1/models/second")).status_code == 200
        ready = (await client.get("/readyz")).json()
        assert ready["status"] == "degraded"
        assert ready["routes"].startswith("invalid")
        own.models = [model for model in own.models if model["id"] == "second"]
        own.write_routes()
        deadline = time.monotonic() + 10
        while (await client.get("/v1/models/fake")).status_code != 404:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert (await client.post(CHAT, json=ask())).status_code == 404
        assert not task.done()
        paused.go_on.set()
        response = await task
    assert '"two"' in response.text
    assert response.text.rstrip().endswith("data: [DONE]")
    assert "are not JSON" in own.log.read_text()


async def test_stop_lets_streams_finish_and_sends_away_who_waits(own: Proxy) -> None:
    paused = Paused()
    async with fake_backend(paused) as fake:
        await asyncio.to_thread(own.route, "fake", fake.url)
        process = own.process
        assert process is not None
        async with own.client(own.new_key()) as client, own.client(own.new_key()) as other:
            running = asyncio.create_task(client.post(CHAT, json=ask()))
            await asyncio.wait_for(fake.called.wait(), 5)
            waiting = asyncio.create_task(other.post(CHAT, json=ask()))
            await asyncio.to_thread(
                wait_for, lambda: own.metric("llamakit_queued", model="fake") == 1, 10, "it waits"
            )
            process.terminate()
            refused = await waiting
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "server_stopping"
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", own.port)
            paused.go_on.set()
            finished = await running
        assert finished.text.rstrip().endswith("data: [DONE]")
        await asyncio.to_thread(process.wait, 10)
    assert process.returncode in (0, -15)
    rows = own.rows(2)
    assert {row["error_code"] for row in rows} == {None, "server_stopping"}


async def test_stop_does_not_wait_for_ever(own: Proxy) -> None:
    async def endless(call: Call) -> None:
        await call.send(HEAD, delta("one"))
        await call.gone(30)

    async with fake_backend(endless) as fake:
        await asyncio.to_thread(own.route, "fake", fake.url)
        process = own.process
        assert process is not None
        async with own.client(own.new_key()) as client:
            running = asyncio.create_task(client.post(CHAT, json=ask()))
            await asyncio.wait_for(fake.called.wait(), 5)
            start = time.monotonic()
            process.terminate()
            response = await running
            assert time.monotonic() - start < 8
        last = response.text.rstrip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_stopping"
        await asyncio.to_thread(process.wait, 10)
    assert own.rows(1)[-1]["error_code"] == "server_stopping"


async def test_heartbeats_while_nothing_is_to_say(own: Proxy) -> None:
    release, alive = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(call: Call) -> None:
        await call.send(HEAD)
        await release.wait()
        await call.send(delta("one"), delta("", "stop"), usage(1, 1), DONE, END)

    async with fake_backend(slow) as fake:
        await asyncio.to_thread(own.route, "fake", fake.url)

        async def stream(path: str, body: dict[str, Any]) -> str:
            async with (
                own.client(own.new_key()) as client,
                client.stream("POST", path, json=body) as answer,
            ):
                parts = answer.aiter_text()
                first = await anext(parts)
                alive.release()
                return first + "".join([part async for part in parts])

        response = {"model": "fake", "input": "hello", "stream": True}
        asked = [(CHAT, ask()), (CHAT, ask()), ("/v1/responses", response)]
        tasks = [asyncio.create_task(stream(path, body)) for path, body in asked]
        async with asyncio.timeout(30):
            for _ in tasks:
                await alive.acquire()
        release.set()
        *chats, events = await asyncio.gather(*tasks)
        for text in (*chats, events):
            assert text.startswith(": keep-alive\n\n")
        for text in chats:
            assert text.rstrip().endswith("data: [DONE]")
        assert events.count(": keep-alive") == 1
        assert events.split("\n\n")[1].startswith("event: response.created\n")
        assert events.split("\n\n")[-2].startswith("event: response.completed\n")


def test_start_without_routes(own: Proxy) -> None:
    own.stop()
    own.settings.routes_path.unlink()
    result = command(own, "serve")
    assert result.returncode == 2
    assert "console.sh start" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_secret_that_everyone_knows(postgres: Postgres, tmp_path: Path) -> None:
    models = [model_entry("nobody", f"http://127.0.0.1:{free_port()}")]
    for name, value in (("llama_api_key", "changeme"), ("postgres_proxy_password", "")):
        idle = new_proxy(postgres, tmp_path, models)
        (idle.settings.secrets_dir / name).write_text(value)
        result = command(idle, "serve")
        assert result.returncode == 2
        assert name in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert "changeme" not in result.stderr


def test_check_config(own: Proxy, tmp_path: Path) -> None:
    result = command(own, "check-config")
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 model" in result.stdout
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"models": [{"id": "x", "backends": []}]}')
    result = command(own, "check-config", "--routes", str(wrong))
    assert result.returncode == 2
    assert "at least one backend" in result.stderr
    # A candidate for the settings, before it replaces what the proxy runs with.
    candidate = tmp_path / "candidate.env"
    candidate.write_text("LLAMA_PROXY_QUEUE_LIMIT=few\n")
    result = command(own, "check-config", "--config", str(candidate))
    assert result.returncode == 2
    assert "LLAMA_PROXY_QUEUE_LIMIT is 'few'" in result.stderr
    candidate.write_text(f"LLAMA_PROXY_ROUTES={wrong}\n")
    del own.environment["LLAMA_PROXY_ROUTES"]
    result = command(own, "check-config", "--config", str(candidate))
    assert "at least one backend" in result.stderr
    routes = str(own.settings.routes_path)
    result = command(own, "check-config", "--config", str(candidate), "--routes", routes)
    assert (result.returncode, result.stderr) == (0, "")
    (own.settings.secrets_dir / "postgres_proxy_password").rename(tmp_path / "aside")
    result = command(own, "check-config", "--config", str(candidate), "--routes", routes)
    assert result.returncode == 2
    assert "postgres_proxy_password" in result.stderr
    own.environment["LLAMA_PROXY_ROUTES"] = routes
    (tmp_path / "aside").rename(own.settings.secrets_dir / "postgres_proxy_password")
    (own.settings.secrets_dir / "llama_api_key").unlink()
    result = command(own, "check-config")
    assert result.returncode == 2
    assert "llama_api_key" in result.stderr


def command(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llamakit_proxy", *arguments],
        env=proxy.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_port_that_is_taken(own: Proxy) -> None:
    result = command(own, "serve")
    assert result.returncode == 2
    assert f"can't listen on 127.0.0.1:{own.port}" in result.stderr
    assert "LLAMA_PROXY_PORT" in result.stderr


async def test_without_postgres(tmp_path: Path, chat_backend: Backend) -> None:
    """It starts, tells that keys can't be checked, and is never open."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("postgres_proxy_password", "llama_api_key"):
        (secrets / name).write_text("canary-secret")
    routes = tmp_path / "routes.json"
    routes.write_text(json.dumps({"models": [model_entry("script", chat_backend.url)]}))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "llamakit_proxy", "serve"),
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "LLAMA_PROXY_PORT": str(port),
            "LLAMA_PROXY_ROUTES": str(routes),
            "LLAMAKIT_SECRETS_DIR": str(secrets),
            "POSTGRES_AUTH_PORT": str(free_port()),
        },
        stderr=subprocess.PIPE,
    )
    try:
        key = "sk-lk-AAAAAAAAAAAA-" + "B" * 43
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for _ in range(200):
                try:
                    health = await client.get("/healthz")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
            assert health.status_code == 200
            assert (await client.get("/readyz")).json()["database"] == "down"
            headers = {"Authorization": f"Bearer {key}"}
            answer = await client.get("/v1/models", headers=headers)
            assert answer.status_code in (401, 503)
            assert (await client.get("/v1/models")).status_code == 401
    finally:
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert b"canary-secret" not in errors
    assert key.encode() not in errors


@pytest.mark.parametrize("host", ["::", "::1"])
def test_verify_asks_where_the_proxy_listens(
    postgres: Postgres, tmp_path: Path, chat_backend: Backend, host: str
) -> None:
    models = [model_entry("script", chat_backend.url)]
    with running_proxy(postgres, tmp_path, models, LLAMA_PROXY_HOST=host) as proxy:
        run = subprocess.run(
            [sys.executable, "-m", "llamakit_proxy", "verify"],
            env=proxy.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert "ok  script answers" in run.stdout
