"""Clients that take their time: none holds a connection for ever, whatever it was answered."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llamakit_proxy import protocol, server
from llamakit_proxy.server import Server
from support.backend import free_port
from support.fake_backend import DONE, END, HEAD, Call, delta, fake_backend, usage
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, new_proxy
from support.wire import head, status

HEAD_SECONDS = 0.5
BODY_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 1
PATIENCE = 6.0
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def slow(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Proxy:
    """All that the server below needs; as a process it does not run."""
    models = [model_entry("nobody", f"http://127.0.0.1:{free_port()}")]
    return new_proxy(
        postgres, tmp_path_factory.mktemp("slow"), models, LLAMA_PROXY_WRITE_TIMEOUT_SECONDS="1"
    )


@pytest.fixture
async def impatient(slow: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """The real server in this process, with times that a test can wait for."""
    monkeypatch.setattr(protocol, "HEADER_SECONDS", HEAD_SECONDS)
    monkeypatch.setattr(protocol, "BODY_SECONDS", BODY_SECONDS)
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", KEEP_ALIVE_SECONDS)
    served = Server(slow.settings)
    await served.prepare(replacing=False)
    listener = socket.create_server(("127.0.0.1", slow.port))
    listener.setblocking(False)
    serving = asyncio.create_task(served.serve_on([listener]))
    async with asyncio.timeout(PATIENCE):
        while not served.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    yield served
    served.stop()
    await serving


def connections(served: Server) -> set[HttpToolsProtocol]:
    return {one for one in served.server_state.connections if isinstance(one, HttpToolsProtocol)}


async def closed_after(served: Server, *pieces: bytes, drip: bytes = b"") -> bytes:
    """What was answered; AssertionError when the connection still stands after PATIENCE seconds in
    which ``drip`` came, a byte at a time and over again."""
    port = served._settings.proxy_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = time.monotonic()

    async def dripping() -> None:
        while drip:
            for byte in drip:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.15)

    task = asyncio.create_task(dripping())
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.1)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.wait_for(reader.read(65536), PATIENCE):
                answer += data
                assert time.monotonic() - start < PATIENCE, "it still stands"
    finally:
        task.cancel()
        writer.close()
    deadline = time.monotonic() + 2
    while connections(served):
        assert time.monotonic() < deadline, "the server still has it"
        await asyncio.sleep(0.02)
    return answer


async def test_a_connection_that_asks_nothing(impatient: Server) -> None:
    assert await closed_after(impatient) == b""
    assert b"alive" in await closed_after(impatient, HEALTH)


async def test_a_head_that_trickles(impatient: Server) -> None:
    assert await closed_after(impatient, drip=b"GET / HTTP/1.1\r\nx: " + b"y" * 99) == b""
    answer = await closed_after(impatient, HEALTH, drip=b"GET / HTTP/1.1\r\nx: " + b"y" * 99)
    assert answer.count(b"HTTP/1.1 200") == 1


async def test_line_breaks_after_an_answer(impatient: Server) -> None:
    """uvicorn forgets its own timer for as much as a line break that no head follows."""
    assert status(await closed_after(impatient, HEALTH, b"\r\n")) == 200
    assert status(await closed_after(impatient, HEALTH, drip=b"\r\n")) == 200


async def test_a_body_that_comes_after_its_answer(impatient: Server) -> None:
    """Another way to have it forgotten: the 401 was given, and then the whole body came."""
    answer = await closed_after(impatient, head("none", "content-length: 2"), b"{}")
    assert status(answer) == 401


@pytest.mark.parametrize(
    "text",
    [
        head("none", "content-length: 100000"),
        head("none", "transfer-encoding: chunked") + b"fffff\r\n",
        head("none", "content-length: 100000", method="GET", path="/healthz"),
        head("none", "content-length: 100000", method="GET", path="/nowhere"),
    ],
    ids=["length", "chunked", "public", "nowhere"],
)
async def test_a_body_that_trickles_after_its_answer(impatient: Server, text: bytes) -> None:
    assert status(await closed_after(impatient, text, drip=b" ")) in (200, 401)


async def test_a_wish_to_upgrade(impatient: Server) -> None:
    text = head("none", "upgrade: websocket", "connection: upgrade", method="GET", path="/healthz")
    assert status(await closed_after(impatient, text)) == 200
    assert status(await closed_after(impatient, text, drip=b"\x81\x00")) in (200, 400)


async def test_a_request_that_waits_in_line_is_not_late(slow: Proxy, impatient: Server) -> None:
    """The second request's body is not read while the first is answered: that is no fault of its
    own, and closing the connection would cut the first one off."""

    async def thinks(call: Call) -> None:
        await asyncio.sleep(BODY_SECONDS * 2)
        await call.send(HEAD, delta("", "stop"), usage(1, 1), DONE, END)

    key = slow.new_key()
    messages = [{"role": "user", "content": "x" * 200_000}]
    body = json.dumps({"model": "thinks", "messages": messages}).encode()
    request = head(key, f"content-length: {len(body)}") + body
    async with fake_backend(thinks) as fake:
        slow.models.append(model_entry("thinks", fake.url, n_ctx=1 << 20))
        slow.write_routes()
        async with asyncio.timeout(PATIENCE):
            while len(impatient._service.table.routes) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", slow.port)
        writer.write(request + request[:-100_000])
        first = await asyncio.wait_for(reader.readuntil(b"}}"), PATIENCE)
        writer.write(request[-100_000:] + head("none", "connection: close", path="/"))
        rest = await asyncio.wait_for(reader.read(), PATIENCE * 2)
        writer.close()
    assert (status(first), status(rest)) == (200, 200)
    assert rest.count(b"HTTP/1.1 401") == 1


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json"])
async def test_a_reader_that_never_reads(impatient: Server, path: str) -> None:
    """Answers that nobody takes: those that need no key, those that do, and what is left when the
    last of them was the connection's last."""
    port = impatient._settings.proxy_port
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        request = head("none", method="GET", path=path)
        last = head("none", "connection: close", method="GET", path=path)
        sending = asyncio.create_task(loop.sock_sendall(client, request * 40_000 + last))
        async with asyncio.timeout(PATIENCE):
            while not (found := connections(impatient)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (one,) = found
        accepted = one.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000
        deadline = time.monotonic() + 20
        while connections(impatient):
            assert time.monotonic() < deadline, "the server still has it"
            await asyncio.sleep(0.05)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
