"""Waiting in the queue with coroutines."""

import asyncio

import pytest

from llamakit_proxy.errors import ApiError
from llamakit_proxy.queue import AdmissionQueue


def make(limit: int = 8, seconds: float = 30, capacity: int = 1) -> AdmissionQueue:
    return AdmissionQueue({"a": capacity}, limit=limit, wait_seconds=seconds)


async def test_the_next_in_line_goes_on() -> None:
    queue = make()
    first = queue.enter(1)
    second = queue.enter(2)
    assert first.ready is None
    assert second.ready is not None
    assert not second.ready.done()
    first.__exit__(None, None, None)
    await asyncio.wait_for(second.ready, 1)
    assert second.backend == "a"


async def test_cancelled_while_waiting() -> None:
    queue = make()

    async def wait() -> None:
        with queue.enter(2) as place:
            assert place.ready is not None
            await place.ready

    with queue.enter(1):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert queue.waiting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert queue.waiting == 0
    assert queue.running() == {"a": 0}


async def test_cancelled_at_the_moment_of_admission() -> None:
    queue = make()
    first, third = queue.enter(1), None

    async def wait() -> None:
        with queue.enter(2) as place:
            assert place.ready is not None
            await place.ready

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    third = queue.enter(3)
    task.cancel()
    first.__exit__(None, None, None)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert third.ready is not None
    await asyncio.wait_for(third.ready, 1)
    assert queue.running() == {"a": 1}
    third.__exit__(None, None, None)
    assert queue.running() == {"a": 0}


async def test_nobody_waits_for_ever() -> None:
    queue = make(seconds=0.05)
    with queue.enter(1):
        with queue.enter(2) as place:
            assert place.ready is not None
            with pytest.raises(ApiError) as caught:
                await place.ready
        assert (caught.value.status, caught.value.code) == (503, "queue_timeout")
        assert int(caught.value.headers["Retry-After"]) >= 1
    assert queue.running() == {"a": 0}


async def test_full_for_one_user_and_for_all() -> None:
    queue = make(limit=8)
    queue.enter(0)
    queue.enter(1)
    queue.enter(1)
    with pytest.raises(ApiError) as own:
        queue.enter(1)
    assert (own.value.status, own.value.code) == (429, "too_many_waiting_requests")
    for user in range(2, 8):
        queue.enter(user)
    with pytest.raises(ApiError) as full:
        queue.enter(9)
    assert (full.value.status, full.value.code) == (503, "queue_full")
    assert 1 <= int(full.value.headers["Retry-After"]) <= 60


async def test_closing_sends_away_who_waits() -> None:
    queue = make()
    with queue.enter(1):
        waiting = queue.enter(2)
        queue.close()
        assert waiting.ready is not None
        with pytest.raises(ApiError) as caught:
            await waiting.ready
        assert caught.value.code == "server_stopping"
        waiting.__exit__(None, None, None)
        with pytest.raises(ApiError):
            queue.enter(3)
        assert queue.running() == {"a": 1}
