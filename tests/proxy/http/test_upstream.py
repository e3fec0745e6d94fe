"""The client for backends: what may go over a connection that is kept, and how much may wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llamakit_proxy.routes import Backend
from llamakit_proxy.upstream import MAX_IDLE_CONNECTIONS, BrokenError, Upstream
from support.fake_backend import Answer, Call, FakeBackend, fake_backend
from support.log_rows import until

PATH = "/v1/completions"
PIECE = b"x" * 1000


def answered(body: bytes) -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@asynccontextmanager
async def upstream_to(answer: Answer) -> AsyncIterator[tuple[Upstream, FakeBackend]]:
    async with fake_backend(answer) as fake:
        upstream = Upstream(Backend(fake.url, "127.0.0.1", fake.port, 1, "llama_cpp_python"))
        try:
            yield upstream, fake
        finally:
            upstream.close()


async def ask(upstream: Upstream) -> bytes:
    """One request from its beginning to its end."""
    connection = await upstream.post(PATH, b"{}")
    try:
        return await connection.read_all()
    finally:
        upstream.release(connection)


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async def answer(call: Call) -> None:
        await call.send(answered(b"good"))

    async with upstream_to(answer) as (upstream, fake):
        for _ in range(3):
            assert await ask(upstream) == b"good"
        assert (len(fake.calls), fake.connections) == (3, 1)


@pytest.mark.parametrize("part", [b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\ncontent-"])
async def test_a_request_that_was_half_answered_is_not_asked_again(part: bytes) -> None:
    """On a connection that was kept: when nothing came back, nothing was done, but this one may be
    generating."""

    async def answer(call: Call) -> None:
        if len(fake.calls) == 1:
            await call.send(answered(b"good"))
            return
        await call.send(part)
        raise ConnectionError

    async with upstream_to(answer) as (upstream, fake):
        assert await ask(upstream) == b"good"
        with pytest.raises(BrokenError):
            await ask(upstream)
        assert (len(fake.calls), fake.connections) == (2, 1)


async def test_a_request_of_which_nothing_came_back_is_asked_once_more() -> None:
    async def answer(call: Call) -> None:
        if len(fake.calls) == 2:
            raise ConnectionError
        await call.send(answered(b"%d" % len(fake.calls)))

    async with upstream_to(answer) as (upstream, fake):
        assert await ask(upstream) == b"1"
        assert await ask(upstream) == b"3"
        assert (len(fake.calls), fake.connections) == (3, 2)


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    """Else the next request over it, somebody else's, would have this for its answer."""
    read = asyncio.Event()

    async def answer(call: Call) -> None:
        if len(fake.calls) > 1:
            await call.send(answered(b"good"))
            return
        await call.send(answered(b"good"))
        await read.wait()
        await call.send(answered(b"evil"))

    async with upstream_to(answer) as (upstream, fake):
        connection = await upstream.post(PATH, b"{}")
        assert await connection.read_all() == b"good"
        upstream.release(connection)
        assert connection.open
        read.set()
        await until(lambda: not connection.open, 5)
        assert await ask(upstream) == b"good"
        assert (len(fake.calls), fake.connections) == (2, 2)


async def test_what_comes_with_the_end_of_an_answer_is_no_part_of_it() -> None:
    async def answer(call: Call) -> None:
        extra = answered(b"evil") if len(fake.calls) == 1 else b""
        await call.send(answered(b"good") + extra)

    async with upstream_to(answer) as (upstream, fake):
        for _ in range(2):
            assert await ask(upstream) == b"good"
        assert (len(fake.calls), fake.connections) == (2, 2)


async def test_an_answer_that_nobody_takes_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def answer(call: Call) -> None:
        nonlocal sent
        await call.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while len(PIECE) * sent < 10_000_000:
            await call.send(PIECE)
            sent += 1
        # All of it was taken in.
        await call.gone(60)

    overflowed = asyncio.Event()
    async with upstream_to(answer) as (upstream, _):
        connection = await upstream.post(PATH, b"{}", limit=50_000, on_overflow=overflowed.set)
        await asyncio.wait_for(overflowed.wait(), 10)
        await until(lambda: not connection.open, 10)
        # What came in one go with what was too much is there as well.
        assert 50_000 < len(connection.take()) <= 50_000 + (256 << 10)
        with pytest.raises(BrokenError, match="not taken as fast as it came"):
            connection.take()
        upstream.release(connection)


async def test_an_answer_that_is_taken_may_be_larger_than_what_may_wait() -> None:
    async def answer(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (300 * len(PIECE)))
        for _ in range(300):
            await call.send(PIECE)
            await taken.acquire()

    taken = asyncio.Semaphore(0)
    async with upstream_to(answer) as (upstream, _):
        connection = await upstream.post(PATH, b"{}", limit=50_000)
        got = 0
        while not connection.complete or connection.has_data:
            got += len(connection.take())
            taken.release()
            await connection.wait()
        assert got == 300 * len(PIECE)
        upstream.release(connection)


async def test_the_number_of_kept_connections_is_bounded() -> None:
    async def answer(call: Call) -> None:
        await call.send(answered(b"good"))

    async with upstream_to(answer) as (upstream, _):
        many = [await upstream.post(PATH, b"{}") for _ in range(MAX_IDLE_CONNECTIONS + 3)]
        for connection in many:
            assert await connection.read_all() == b"good"
        for connection in many:
            upstream.release(connection)
        assert [connection.open for connection in many].count(False) == 3
