"""Requests of which two readers would see two different things: one answer at most, then the end.

A reverse proxy in front of this one may read them the other way. Whatever is ambiguous ends its
connection, so that nothing behind it is taken for a request.
"""

import asyncio
import json
import re

import pytest

from support.fake_backend import DONE, END, HEAD, Call, delta, fake_backend, usage
from support.proxy import Proxy
from support.wire import exchange, head, status

STATUS = re.compile(rb"^HTTP/1\.1 \d{3} ", re.MULTILINE)
OURS = {
    b"date", b"content-type", b"content-length", b"transfer-encoding", b"connection",
    b"cache-control", b"x-accel-buffering", b"x-request-id",
}  # fmt: skip
INNER = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("content-length: 5, 5",),
        ("content-length: 5", "content-length: 5"),
        ("content-length: -1",),
        ("content-length: ",),
        ("content-length: 5 5",),
        ("content-length: 99999999999999999999999",),
        ("content-length: 5\rx: y",),
        ("content-length:\x0b5",),
        ("transfer-encoding: xchunked",),
        ("transfer-encoding: chunkedx",),
        ("transfer-encoding:\x0bchunked",),
        ("transfer-encoding: chunked", "transfer-encoding: identity"),
        ("transfer-encoding: identity", "transfer-encoding: chunked", "content-length: 5"),
        ("transfer-encoding: identity",),
        ("transfer-encoding: chunked\r\n content-length: 5",),
        ("transfer-encoding : chunked",),
        (" transfer-encoding: chunked",),
        ("transfer-encoding\x00: chunked",),
        ("transfer_encoding\t: chunked",),
        ("x: y\n\ncontent-length: 5",),
    ],
    ids=str,
)
async def test_heads_that_can_be_read_in_two_ways(
    proxy: Proxy, key: str, lines: tuple[str, ...]
) -> None:
    answer = await exchange(proxy.port, head(key, *lines), b"0\r\n\r\n", INNER, seconds=40)
    assert not answer or status(answer) in (400, 413, 415), answer
    assert len(STATUS.findall(answer)) <= 1
    assert b"alive" not in answer


@pytest.mark.parametrize(
    "body",
    [
        b"+2\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"2 \x00\r\n{}\r\n0\r\n\r\n",
        b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        b"2\n{}\n0\n\n",
        b"2\r\n{}XX\r\n0\r\n\r\n",
        b"2\r\n{}\r\n\r\n0\r\n\r\n",
        b"g\r\n{}\r\n0\r\n\r\n",
        b"2\r{}\r\n0\r\n\r\n",
        b"0\r\nx: y\r\ncontent length: 3\r\n\r\n",
    ],
    ids=str,
)
async def test_chunks_that_can_be_read_in_two_ways(proxy: Proxy, key: str, body: bytes) -> None:
    answer = await exchange(proxy.port, head(key, "transfer-encoding: chunked"), body + INNER)
    assert not answer or status(answer) == 400, answer
    assert b"alive" not in answer


@pytest.mark.parametrize(
    "framing",
    [(b"0\r\n", b"a: b\r\n"), (b"0\r\na: ", b"x"), (b"1;", b"x"), (b"1;a=", b"x"), (b"", b"0")],
    ids=["trailers", "a trailer", "an extension", "its value", "a size"],
)
async def test_framing_without_an_end_ends_the_connection(
    proxy: Proxy, framing: tuple[bytes, bytes]
) -> None:
    """It costs memory and time, and may come from somebody without a key."""
    begin, more = framing
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(head("none", "transfer-encoding: chunked") + begin)
        assert b"401" in await reader.readline()
        with pytest.raises(ConnectionError):
            await pour(writer, (more * 8192)[:8192])
    finally:
        writer.close()


async def pour(writer: asyncio.StreamWriter, piece: bytes) -> None:
    for _ in range(1000):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)


async def test_many_small_chunks_are_a_body(proxy: Proxy, key: str) -> None:
    chunks = b"1;extension\r\n \r\n" * 50_000 + b"2\r\n{}\r\n0\r\nx: y\r\n\r\n"
    answer = await exchange(
        proxy.port, head(key, "transfer-encoding: chunked", "connection: close"), chunks
    )
    assert status(answer) == 400
    assert b'"param":"model"' in answer, answer


async def test_chunked_in_http_1_0(proxy: Proxy, key: str) -> None:
    text = head(key, "transfer-encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = await exchange(proxy.port, text, b"2\r\n{}\r\n0\r\n\r\n" + INNER)
    assert len(STATUS.findall(answer)) <= 1
    assert b"alive" not in answer


async def test_a_body_that_goes_on_after_its_answer_is_no_request(proxy: Proxy) -> None:
    """The 401 is given by the head; the body that comes then is a body all the same."""
    answer = await exchange(
        proxy.port, head("none", f"content-length: {len(INNER)}"), INNER,
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", pause=0.2,
    )  # fmt: skip
    assert answer.count(b"HTTP/1.1 401") == 1
    assert answer.count(b"HTTP/1.1 200") == answer.count(b"alive") == 1


async def test_headers_stop_here_both_ways(proxy: Proxy, key: str) -> None:
    """What a client sends with its request, hop by hop or not, reaches no backend; of a backend's
    headers none reaches a client."""

    async def answers(call: Call) -> None:
        extra = (
            b"set-cookie: canary=1\r\nserver: canary\r\nx-canary: 1\r\nconnection: x-canary\r\n"
            b"keep-alive: timeout=canary\r\ndate: canary\r\nx-request-id: canary\r\n"
            b"access-control-allow-origin: *\r\nproxy-authenticate: canary\r\nupgrade: canary\r\n"
        )
        await call.send(HEAD.removesuffix(b"\r\n") + extra + b"\r\n")
        await call.send(delta("x"), delta("", "stop"), usage(1, 1), DONE, END)

    request = json.dumps({"model": "bare", "messages": [{"role": "user", "content": "x"}]}).encode()
    async with fake_backend(answers) as fake:
        await asyncio.to_thread(proxy.route, "bare", fake.url)
        for stream in (b"false", b"true"):
            body = request.replace(b'{"model"', b'{"stream":%b,"model"' % stream)
            answer = await exchange(
                proxy.port,
                head(
                    key, f"content-length: {len(body)}", "cookie: canary", "te: trailers",
                    "connection: close, x-canary, authorization", "x-canary: 1",
                    "proxy-authorization: canary", "x-api-key: canary", "keep-alive: 1",
                    "trailer: canary", "x-forwarded-for: 127.0.0.1", "x-http-method-override: GET",
                ),
                body,
            )  # fmt: skip
            assert status(answer) == 200
            lines = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")[1:]
            names = [line.partition(b":")[0] for line in lines]
            assert len(names) == len(set(names))
            assert set(names) <= OURS
            assert b"canary" not in answer
    assert len(fake.calls) == 2
    for call in fake.calls:
        assert set(call.headers) == {"content-length", "host", "content-type", "authorization"}
        assert key.lower() not in str(call.headers)
