"""HTTP itself: sizes, slowness, smuggling, and whatever else arrives on the socket."""

import asyncio
import json
import time
from typing import Any

import pytest

from llamakit_proxy.protocol import HEADER_SECONDS, MAX_HEAD
from support.proxy import Proxy
from support.wire import error, exchange, head, status

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "script", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("announced", [True, False])
async def test_oversized_bodies(proxy: Proxy, key: str, announced: bool) -> None:
    size = proxy.settings.max_body_bytes
    if announced:
        answer = await exchange(proxy.port, head(key, f"content-length: {size + 1}"))
    else:
        block = b"%x\r\n%b\r\n" % (1 << 16, b" " * (1 << 16))
        count = size // (1 << 16) + 2
        answer = await exchange(
            proxy.port, head(key, "transfer-encoding: chunked"), *[block] * count
        )
    assert status(answer) == 413
    assert error(answer)["code"] == "request_too_large"
    assert b"connection: close" in answer


async def test_a_body_in_pieces(proxy: Proxy, key: str) -> None:
    data = json.dumps(GOOD).encode()
    chunks = [b"%x\r\n%b\r\n" % (1, data[i : i + 1]) for i in range(len(data))]
    lines = ("transfer-encoding: chunked", "connection: close")
    answer = await exchange(proxy.port, head(key, *lines), *chunks, b"0\r\n\r\n")
    assert status(answer) == 200


@pytest.mark.parametrize(
    "lines",
    [
        ("content-length: 5", "transfer-encoding: chunked"),
        ("content-length: 5", "content-length: 6"),
        ("transfer-encoding: chunked, identity",),
        ("transfer-encoding: gzip, chunked", "content-length: 3"),
        ("content-length: +5",),
        ("content-length: 0x5",),
        ("content-length : 5",),
        ("folded: a\r\n b",),
        ("bad name: x",),
        ("nul: a\x00b",),
    ],
)
async def test_smuggling(proxy: Proxy, key: str, lines: tuple[str, ...]) -> None:
    inner = b"0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = await exchange(proxy.port, head(key, *lines), inner, seconds=40)
    assert not answer or status(answer) in (400, 413, 415), answer
    assert answer.count(b"\r\n\r\n") <= 1
    assert b"alive" not in answer


async def test_bare_line_feeds(proxy: Proxy, key: str) -> None:
    text = head(key, "content-length: 2").replace(b"\r\n", b"\n") + b"{}"
    assert status(await exchange(proxy.port, text)) == 400


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 99,
    ],
)
async def test_what_is_not_http(proxy: Proxy, text: bytes) -> None:
    answer = await exchange(proxy.port, text)
    assert status(answer) == 400
    assert error(answer)["code"] == "invalid_http"


async def test_headers_that_are_too_large(proxy: Proxy, key: str) -> None:
    for pieces in (
        [head(key, *(f"x{i}: {'y' * 1000}" for i in range(50)))],
        [b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HEAD // 2), b"y" * (MAX_HEAD // 2)],
        [b"GET /" + b"y" * (MAX_HEAD + 1) + b" HTTP/1.1\r\n\r\n"],
    ):
        answer = await exchange(proxy.port, *pieces, pause=0.1)
        assert status(answer) == 431
        assert error(answer)["code"] == "headers_too_large"


async def test_connections_that_say_nothing(proxy: Proxy) -> None:
    start = time.monotonic()
    silent = exchange(proxy.port, seconds=HEADER_SECONDS + 5)
    dripping = exchange(
        proxy.port, *[b"GET / HTTP/1.1\r\nx: "], *[b"y"] * 12, seconds=HEADER_SECONDS + 5, pause=1
    )
    answers = await asyncio.gather(silent, dripping)
    assert list(answers) == [b"", b""]
    assert time.monotonic() - start < HEADER_SECONDS + 5


async def test_upgrades_lead_nowhere(proxy: Proxy, key: str) -> None:
    for upgrade in ("websocket", "h2c"):
        lines = ("upgrade: " + upgrade, "connection: upgrade, close", "sec-websocket-key: x")
        request = head(key, *lines, "sec-websocket-version: 13", path="/v1/models")
        answer = await exchange(proxy.port, request.replace(b"POST", b"GET"))
        assert status(answer) == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_wish_for_http2_loses_no_body(proxy: Proxy, key: str, chunked: bool) -> None:
    """Java's client, and those built on it, send one with each request."""
    data = json.dumps(GOOD).encode()
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(data)}"
    wish = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    last = ("connection: close, upgrade", "upgrade: h2c")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data
    half = len(body) // 2
    for pause, pieces in (
        (0.0, [head(key, length, *wish) + body + head(key, length, *last) + body]),
        (0.1, [head(key, length, *wish), body[:half], body[half:], head(key, length, *last), body]),
    ):
        answer = await exchange(proxy.port, *pieces, pause=pause)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.count(b'"finish_reason"') == 2
        assert answer.count(b"connection: close") == 1, "the second one had that wish, too"


async def test_nothing_but_http_follows_a_wish_to_upgrade(proxy: Proxy, key: str) -> None:
    lines = ("connection: upgrade", "upgrade: websocket")
    request = head(key, *lines, path="/v1/models").replace(b"POST", b"GET")
    answer = await exchange(proxy.port, request + b"\x81\x85\x00\x00\x00\x00hello")
    assert answer.startswith(b"HTTP/1.1 ")
    assert answer.count(b"HTTP/1.1 200") <= 1
    assert b"invalid_http" in answer


async def test_two_requests_on_one_connection(proxy: Proxy, key: str) -> None:
    data = json.dumps(GOOD).encode()
    one = head(key, f"content-length: {len(data)}") + data
    last = head(key, f"content-length: {len(data)}", "connection: close") + data
    answer = await exchange(proxy.port, one + last)
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_wrong_content_types(proxy: Proxy, key: str) -> None:
    async with proxy.client(key) as client:
        for headers in (
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ):
            response = await client.post(CHAT, content=json.dumps(GOOD), headers=headers)
            assert response.status_code == 415
            assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"model": NaN}', b"\xff", b"[" * 100_000])
async def test_malformed_json(proxy: Proxy, key: str, raw: bytes) -> None:
    async with proxy.client(key) as client:
        response = await client.post(
            CHAT, content=raw, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


async def test_errors_say_nothing_of_the_machine_or_of_others(proxy: Proxy, key: str) -> None:
    canary = "canary-of-the-prompt"
    bodies: list[dict[str, Any]] = [
        {**GOOD, "messages": [{"role": "user", "content": canary + " FAIL"}]},
        {**GOOD, "messages": [{"role": "user", "content": canary * 3000}]},
        {**GOOD, "messages": [{"role": "user", "content": {"a": canary}}]},
        {**GOOD, "messages": [{"role": canary, "content": "x"}]},
        {**GOOD, "stop": {"a": canary}},
        {**GOOD, "response_format": {"type": canary}},
    ]
    async with proxy.client(key) as client:
        for body in bodies:
            for stream in (True, False):
                response = await client.post(CHAT, json={**body, "stream": stream})
                assert response.status_code in (400, 502), response.text
                text = response.text
                assert canary not in text
                assert key not in text
                assert "/" not in response.json()["error"]["message"].replace("/v1/", "")
    log = proxy.log.read_text()
    assert canary not in log
    assert key not in log
    assert "Traceback" not in log
