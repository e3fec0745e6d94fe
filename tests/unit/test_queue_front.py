"""Waiting in the queue with coroutines."""

import asyncio

import pytest

from llamakit_proxy.circuit import FAILURES, FIRST_SECONDS, Failure, State
from llamakit_proxy.errors import ApiError
from llamakit_proxy.queue import AdmissionQueue, Place


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


def replicas(*names: str, seconds: float = 30) -> AdmissionQueue:
    return AdmissionQueue(dict.fromkeys(names, 1), limit=8, wait_seconds=seconds, model="m")


def refusal(place: Place) -> ApiError:
    """Why the place's wait has failed."""
    assert place.ready is not None
    error = place.ready.exception()
    assert isinstance(error, ApiError)
    return error


async def test_when_all_are_out_nobody_waits() -> None:
    queue = replicas("a")
    with queue.enter(1) as place:
        waiting = queue.enter(2)
        place.failed(Failure.UNREACHABLE, sure=True)
        assert refusal(waiting).code == "backend_unavailable"
        waiting.__exit__(None, None, None)
    with pytest.raises(ApiError) as caught:
        queue.enter(3)
    assert (caught.value.status, caught.value.code) == (503, "backend_unavailable")
    assert caught.value.headers["Retry-After"] == "1"
    assert queue.states() == {"a": State.OPEN}
    queue.close()


async def test_one_request_brings_a_backend_back() -> None:
    queue = replicas("a")
    with queue.enter(1) as place:
        place.failed(Failure.UNREACHABLE, sure=True)
    await asyncio.sleep(FIRST_SECONDS + 0.2)
    with queue.enter(1) as place, queue.enter(2) as waiting:
        assert place.backend == "a"
        assert waiting.ready is not None, "one at a time until it has begun to answer"
        place.begun()
        assert queue.states() == {"a": State.CLOSED}


async def test_no_request_is_spent_on_a_backend_that_takes_no_connection() -> None:
    looks = asyncio.Queue[str]()
    answers = [False, True]

    async def reachable(name: str) -> bool:
        looks.put_nowait(name)
        return answers.pop(0)

    queue = AdmissionQueue({"a": 1}, limit=8, wait_seconds=30, reachable=reachable)
    with queue.enter(1) as place:
        place.failed(Failure.UNREACHABLE, sure=True)
    assert await looks.get() == "a"
    await asyncio.sleep(0)
    assert queue.states() == {"a": State.OPEN}
    assert await looks.get() == "a"
    await asyncio.sleep(0)
    assert queue.states() == {"a": State.HALF_OPEN}
    with queue.enter(1) as place:
        place.failed(Failure.UNREACHABLE)
    queue.close()


async def test_a_look_that_is_under_way_when_all_ends() -> None:
    began = asyncio.Event()

    async def reachable(_: str) -> bool:
        began.set()
        return await asyncio.Future[bool]()

    queue = AdmissionQueue({"a": 1}, limit=8, wait_seconds=30, reachable=reachable)
    with queue.enter(1) as place:
        place.failed(Failure.UNREACHABLE, sure=True)
    await began.wait()
    queue.resize({"b": 1})
    queue.close()
    assert queue.states() == {"b": State.CLOSED}


async def test_a_backend_that_comes_back_takes_who_waits() -> None:
    """While the other one is busy, a recovered one is not left alone until somebody new comes."""
    queue = replicas("a", "b")
    with queue.enter(1) as first, queue.enter(2), queue.enter(3) as waiting:
        first.failed(Failure.UNREACHABLE, sure=True)
        first.__exit__(None, None, None)
        assert waiting.ready is not None
        assert not waiting.ready.done()
        async with asyncio.timeout(10):
            await waiting.ready
        assert waiting.backend == "a"


async def test_moving_to_a_free_backend_and_to_a_busy_one() -> None:
    queue = replicas("a", "b")
    first = queue.enter(1)
    assert first.backend == "a"
    assert first.move()
    assert first.ready is None
    assert first.backend == "b"
    second = queue.enter(2)
    assert second.backend == "a"
    assert second.move()
    assert second.ready is not None
    assert not second.ready.done()
    first.__exit__(None, None, None)
    await asyncio.wait_for(second.ready, 1)
    assert second.backend == "b"
    assert not second.move()
    second.__exit__(None, None, None)
    assert queue.running() == {"a": 0, "b": 0}


async def test_who_moves_waits_no_longer_than_anybody() -> None:
    queue = replicas("a", "b", seconds=0.2)
    with queue.enter(1) as first, queue.enter(2) as second:
        assert second.move()
        assert second.ready is not None
        with pytest.raises(ApiError) as caught:
            await second.ready
        assert caught.value.code == "queue_timeout"
        assert first.ticket.backend is not None


class Clock:
    """The loop's clock, which only the test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        # In the first round the loop finds which timers are due; by the second they have run.
        for _ in range(2):
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", lambda: clock.now)
    return clock


async def test_the_time_on_a_backend_that_failed_is_none_of_the_wait(clock: Clock) -> None:
    queue = replicas("a", "b", seconds=30)
    with queue.enter(1) as first, queue.enter(2) as second:
        await clock.advance(50)
        assert second.move()
        assert second.ready is not None
        await clock.advance(29)
        assert not second.ready.done()
        first.__exit__(None, None, None)
        await second.ready
        assert second.backend == "a"


async def test_two_waits_are_one_when_it_comes_to_patience(clock: Clock) -> None:
    queue = replicas("a", "b", seconds=60)
    with queue.enter(1) as first, queue.enter(2), queue.enter(3) as third:
        assert third.ready is not None
        await clock.advance(40)
        first.__exit__(None, None, None)
        await third.ready
        assert third.move()
        assert third.ready is not None
        await clock.advance(19)
        assert not third.ready.done()
        await clock.advance(2)
        with pytest.raises(ApiError):
            await third.ready


async def test_who_moves_is_sent_away_with_the_last_backend() -> None:
    queue = replicas("a", "b")
    with queue.enter(1) as first, queue.enter(2) as second:
        assert second.move()
        first.failed(Failure.UNREACHABLE, sure=True)
        assert refusal(second).code == "backend_unavailable"
        assert queue.states()["b"] is State.CLOSED
    queue.close()


async def test_moving_while_the_proxy_stops() -> None:
    queue = replicas("a", "b")
    with queue.enter(1), queue.enter(2) as second:
        queue.close()
        assert second.move()
        assert refusal(second).code == "server_stopping"


async def test_moving_when_the_model_is_no_more() -> None:
    queue = replicas("a", "b")
    with queue.enter(1), queue.enter(2) as second:
        queue.close(lambda: ApiError(404, "model_not_found", "It is gone."))
        assert second.move()
        assert refusal(second).code == "model_not_found"


async def test_a_reload_keeps_what_is_known_of_backends() -> None:
    queue = replicas("a", "b")
    with queue.enter(1) as place:
        assert place.backend == "a"
        for _ in range(FAILURES):
            place.failed(Failure.BROKEN)
    assert queue.states() == {"a": State.CLOSED, "b": State.CLOSED}, "it is one failure"
    with queue.enter(1) as place:
        place.failed(Failure.BROKEN, sure=True)
        out = place.backend
    queue.resize({"a": 1, "b": 1, "c": 1})
    assert queue.states()[out] is State.OPEN
    assert list(queue.states()) == ["a", "b", "c"]
    queue.resize({"c": 1})
    queue.resize({out: 1})
    assert queue.states() == {out: State.CLOSED}
    place.failed(Failure.BROKEN)
    queue.close()


async def test_a_longer_list_of_backends_lets_more_wait() -> None:
    queue = replicas("a")
    queue.enter(0)
    for user in range(1, 9):
        queue.enter(user)
    with pytest.raises(ApiError):
        queue.enter(10)
    queue.resize({"a": 1, "b": 1})
    queue.enter(10)
    assert queue.waiting == 8
    queue.close()


async def test_a_shorter_patience_of_the_client() -> None:
    queue = replicas("a")
    with queue.enter(1), queue.enter(2, wait_seconds=0.05) as place:
        assert place.ready is not None
        with pytest.raises(ApiError) as caught:
            await place.ready
        assert "within 0.05 seconds" in caught.value.message
