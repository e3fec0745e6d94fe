"""Behind a reverse proxy: whom the log names and who may read the metrics."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from support.backend import free_port
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, new_proxy, running_proxy
from support.wire import exchange, head


@pytest.fixture(scope="module")
def behind(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that believes this machine, which is where the tests ask from."""
    with running_proxy(
        postgres,
        tmp_path_factory.mktemp("behind"),
        [model_entry("nobody", f"http://127.0.0.1:{free_port()}")],
        LLAMA_PROXY_TRUSTED_PROXIES="127.0.0.0/8, 10.0.0.0/8",
    ) as proxy:
        yield proxy


async def test_the_log_has_the_client_a_trusted_proxy_names(behind: Proxy) -> None:
    key = behind.new_key("traced")
    sent = {"1.2.3.4": "spoofed, 1.2.3.4, 10.0.0.7", None: "_hidden, 10.0.0.7", "127.0.0.1": None}
    async with behind.client(key) as client:
        for forwarded in sent.values():
            headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
    lines = ("x-forwarded-for: 1.2.3.5", "transfer-encoding: chunked", "connection: close")
    await exchange(
        behind.port,
        head(key, *lines, method="GET", path="/v1/models")
        + b"0\r\nx-forwarded-for: spoofed, 9.9.9.9\r\n\r\n",
    )
    rows = await asyncio.to_thread(behind.rows, len(sent) + 1)
    assert [row["client"] for row in rows] == [*sent, "1.2.3.5"]
    log = behind.log.read_text()
    assert '"client":"1.2.3.4"' in log
    assert "spoofed" not in log
    assert "_hidden" not in log


async def test_who_may_read_the_metrics_without_a_key(behind: Proxy) -> None:
    async with httpx.AsyncClient(base_url=behind.url) as client:
        for forwarded, status in (
            ("127.0.0.1", 200),
            ("1.2.3.4", 401),
            ("127.0.0.1, 1.2.3.4", 401),
            ("127.0.0.1, unknown", 401),
        ):
            headers = {"X-Forwarded-For": forwarded}
            assert (await client.get("/metrics", headers=headers)).status_code == status, forwarded


async def test_without_the_setting_the_log_has_the_peer(proxy: Proxy) -> None:
    key = proxy.new_key("direct")
    async with proxy.client(key) as client:
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP"):
            answer = await client.get("/v1/models", headers={name: "203.0.113.9"})
    last = answer.headers["x-request-id"]
    assert '"client":"127.0.0.1"' in await asyncio.to_thread(proxy.wait_for_log, last)
    assert "203.0.113.9" not in proxy.log.read_text()
    await asyncio.to_thread(proxy.row, last)
    rows = await asyncio.to_thread(proxy.rows, 4)
    assert {row["client"] for row in rows} == {"127.0.0.1"}


def test_a_setting_that_is_no_network(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("wrong")
    proxy = new_proxy(postgres, folder, [model_entry("nobody", "http://127.0.0.1:1")])
    proxy.environment["LLAMA_PROXY_TRUSTED_PROXIES"] = "10.0.0.1/8"
    proxy.launch()
    assert proxy.process is not None
    assert proxy.process.wait(30) == 2
    log = proxy.log.read_text()
    assert "LLAMA_PROXY_TRUSTED_PROXIES is '10.0.0.1/8'; expected addresses and networks" in log
    assert "'10.0.0.1/8' is neither an address nor a network like 10.0.0.0/8" in log
