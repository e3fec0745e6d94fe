"""Log rows of a real proxy that is killed, with Postgres and without; and no prompt is in them."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.backend import Backend
from support.log_rows import check_usage
from support.postgres import Postgres, running_postgres
from support.proxy import Proxy, model_entry, new_proxy

CANARY = "canary-prompt-4711"


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def own(own_postgres: Postgres, tmp_path: Path, chat_backend: Backend) -> Iterator[Proxy]:
    """A proxy with a spool, that a test may harm as well as its Postgres."""
    proxy = new_proxy(
        own_postgres,
        tmp_path,
        [model_entry("script", chat_backend.url, n_ctx=8192)],
        LLAMA_PROXY_SPOOL_DIR=str(tmp_path / "spool"),
    )
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def kill(proxy: Proxy) -> None:
    """The master, and with it the worker, as the kernel does it when memory runs out."""
    workers = proxy.workers()
    proxy.stop(signal.SIGKILL)
    for worker in workers:
        worker.wait(10)


def ids(proxy: Proxy, count: int) -> list[str]:
    found = [row["request_id"] for row in proxy.rows(count)]
    with proxy.admin() as admin:
        check_usage(admin)
    return found


async def ask_until_gone(proxy: Proxy, key: str, answered: dict[str, float]) -> None:
    """Ask without a pause; when which request was answered."""
    async with proxy.client(key) as client:
        while True:
            try:
                response = await client.get("/v1/models")
            except httpx.TransportError:
                return
            answered[response.headers["x-request-id"]] = time.monotonic()


async def test_a_kill_under_load_loses_the_last_moment_at_most(own: Proxy) -> None:
    key = own.new_key()
    answered: dict[str, float] = {}
    load = [asyncio.create_task(ask_until_gone(own, key, answered)) for _ in range(8)]
    await asyncio.sleep(3)
    killed_at = time.monotonic()
    await asyncio.to_thread(kill, own)
    await asyncio.gather(*load)
    await asyncio.to_thread(own.start)
    # Asked last, written last: by then what was left over is written, too.
    async with own.client(key) as client:
        await client.get("/v1/models")
    await asyncio.to_thread(wait_until_empty, own)
    found = ids(own, 1)
    lost = set(answered) - set(found)
    assert len(found) == len(set(found)) > len(lost)
    # The rows go to disk every half a second; the rest is for a machine that has other work.
    assert all(answered[one] > killed_at - 2.5 for one in lost)


def wait_until_empty(proxy: Proxy) -> None:
    deadline = time.monotonic() + 20
    while proxy.metric("llamakit_log_rows_pending"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_rows_of_a_killed_proxy_come_when_postgres_is_back(
    own: Proxy, own_postgres: Postgres
) -> None:
    key = own.new_key()
    asked = []
    async with own.client(key) as client:
        asked.append((await client.get("/v1/models")).headers["x-request-id"])
        await asyncio.to_thread(own.rows, 1)
        own_postgres.stop(signal.SIGKILL)
        for _ in range(30):
            response = await client.get("/v1/models")
            assert response.status_code == 200
            asked.append(response.headers["x-request-id"])
    deadline = time.monotonic() + 10
    while own.metric("llamakit_log_rows_spooled") < 30:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert own.metric("llamakit_log_spool_bytes") > 30 * 100
    await asyncio.to_thread(kill, own)
    await asyncio.to_thread(own_postgres.start)
    await asyncio.to_thread(own.start)
    assert sorted(await asyncio.to_thread(ids, own, 31)) == sorted(asked)
    await asyncio.to_thread(wait_until_empty, own)
    assert own.metric("llamakit_log_rows_dropped_total") == 0
    own.stop()
    assert list((own.folder / "spool").iterdir()) == []


async def test_prompts_are_kept_nowhere(own: Proxy, own_postgres: Postgres) -> None:
    key = own.new_key()
    asked = [
        {"model": model, "messages": [{"role": "user", "content": f"{CANARY} hello"}], **more}
        for model in ("script", CANARY)
        for more in ({}, {"stream": True}, {"temperature": CANARY}, {CANARY: 1}, {"stop": ""})
    ]

    async def ask_all() -> list[str]:
        async with own.client(key) as client:
            answers = [
                await client.post("/v1/chat/completions", json=body, headers={"x-y": CANARY})
                for body in asked
            ]
            answers.append(await client.get(f"/v1/models/{CANARY}?{CANARY}=1"))
        return [answer.headers["x-request-id"] for answer in answers]

    there = await ask_all()
    assert set(await asyncio.to_thread(ids, own, len(there))) == set(there)
    own_postgres.stop(signal.SIGINT)
    away = await ask_all()
    deadline = time.monotonic() + 10
    while own.metric("llamakit_log_rows_spooled") < len(away):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    spooled = b"".join(path.read_bytes() for path in (own.folder / "spool").iterdir())
    assert all(one.encode() in spooled for one in away)
    assert CANARY.encode() not in spooled
    await asyncio.to_thread(own_postgres.start)
    assert len(await asyncio.to_thread(ids, own, len(there) + len(away))) == 2 * len(there)
    dump = await asyncio.to_thread(dumped, own, own_postgres)
    assert away[0].encode() in dump
    assert CANARY.encode() not in dump
    assert CANARY not in own.log.read_text()


def dumped(proxy: Proxy, postgres: Postgres) -> bytes:
    """The whole database as text."""
    return subprocess.run(
        [
            *(postgres.binaries / "pg_dump", "--host=127.0.0.1", "--username=postgres"),
            *(f"--port={postgres.port}", proxy.settings.postgres_db),
        ],
        env={"PGPASSWORD": postgres.superuser_password},
        capture_output=True,
        check=True,
    ).stdout
