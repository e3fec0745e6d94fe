"""Chunks on their way from a backend to a client: whole, in order, at once, and to a clear end."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from llamakit_proxy.relay import HEARTBEAT_SECONDS
from support.fake_backend import DONE, END, HEAD, Call, FakeBackend, delta, fake_backend, usage
from support.proxy import Proxy

PAUSE = 0.05
LARGE = 30_000


async def answer(call: Call) -> None:
    """What the last message says."""
    await ANSWERS[call.body["messages"][-1]["content"]](call)


async def in_pieces(call: Call) -> None:
    """Cut in the middle of events, of lines and of what frames them."""
    whole = b"".join(delta(f"{number} ") for number in range(40)) + delta("", "stop")
    await call.send(HEAD)
    for start in range(0, len(whole), 97):
        await call.send(whole[start : start + 97])
        await asyncio.sleep(0.001)
    await call.send(usage(1, 40), DONE, END)


async def ends_too_soon(call: Call) -> None:
    """The last chunk comes with the end of the message, and that is not the answer's."""
    await call.send(HEAD, delta("0 "))
    await asyncio.sleep(PAUSE)
    await call.send(delta("1 ") + END)


async def breaks_off(call: Call) -> None:
    await call.send(HEAD, delta("0 "))
    await asyncio.sleep(PAUSE)
    await call.send(delta("1 "))
    await asyncio.sleep(PAUSE)
    raise ConnectionError


async def fails(call: Call) -> None:
    await call.send(HEAD, delta("0 "))
    await asyncio.sleep(PAUSE)
    error = b'data: {"error": {"code": "context_length_exceeded"}}\n\n'
    await call.send(delta("1 ") + b"%x\r\n%b\r\n" % (len(error), error) + DONE + END)


async def large(call: Call) -> None:
    await call.send(HEAD)
    for number in range(200):
        await call.send(delta(f"{number} " + "x" * LARGE))
        await asyncio.sleep(0.001)
    await call.send(delta("", "stop"), usage(1, 200), DONE, END)


ANSWERS = {call.__name__: call for call in (in_pieces, ends_too_soon, breaks_off, fails, large)}


@pytest.fixture
async def fake(proxy: Proxy) -> AsyncIterator[FakeBackend]:
    async with fake_backend(answer) as fake:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        yield fake


async def ask(proxy: Proxy, key: str, wanted: str, *, wait: float = 0) -> list[str]:
    """The payloads of the answer, read after a while by a client that takes little at a time."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", proxy.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1 << 22)
    body = json.dumps(
        {"model": "fake", "stream": True, "messages": [{"role": "user", "content": wanted}]}
    )
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
    )
    if wait:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # only a WriteTransport to mypy
        await asyncio.sleep(wait)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
    # Less than a heartbeat, which would wake what sleeps by mistake.
    async with asyncio.timeout(HEARTBEAT_SECONDS - 5):
        await reader.readuntil(b"\r\n\r\n")
        text = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            text += (await reader.readexactly(size + 2))[:-2]
    writer.close()
    return [line.removeprefix("data: ") for line in text.decode().split("\n\n") if line]


def numbers(payloads: list[str]) -> list[int]:
    """Those that the chunks' texts begin with."""
    texts = [
        json.loads(payload)["choices"][0]["delta"].get("content", "")
        for payload in payloads
        if '"choices"' in payload
    ]
    return [int(text.split()[0]) for text in texts if text]


async def test_in_pieces(proxy: Proxy, key: str, fake: FakeBackend) -> None:
    payloads = await ask(proxy, key, "in_pieces")
    assert numbers(payloads) == list(range(40))
    assert payloads[-1] == "[DONE]"


async def test_a_reader_that_pauses(proxy: Proxy, key: str, fake: FakeBackend) -> None:
    payloads = await ask(proxy, key, "large", wait=1.5)
    assert numbers(payloads) == list(range(200))
    assert payloads[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ("ends_too_soon", "backend_incomplete"),
        ("breaks_off", "backend_error"),
        ("fails", "context_length_exceeded"),
    ],
)
async def test_an_end_that_is_none(
    proxy: Proxy, key: str, fake: FakeBackend, wanted: str, code: str
) -> None:
    payloads = await ask(proxy, key, wanted)
    assert numbers(payloads) == [0, 1]
    assert json.loads(payloads[-1])["error"]["code"] == code
