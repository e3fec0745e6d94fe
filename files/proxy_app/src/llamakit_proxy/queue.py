"""A fair wait for a place on one of a model's backends, which are replicas of each other.

The thin front of ``Scheduler`` that lets a coroutine wait, and tells it which backends can be used.
Everything here happens on the event loop, without a pause between a look and a change.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import ceil
from types import TracebackType
from typing import Self

from .breakers import Breakers
from .circuit import Failure, State
from .errors import ApiError, backend_away, unavailable
from .scheduler import QueueFullError, Scheduler
from .turns import Ticket


class Place:
    """A place in the queue, then on a backend. Use it as a context manager: it is given back
    however the block ends."""

    __slots__ = ("_left", "_queue", "_timer", "ready", "seconds", "since", "ticket")

    def __init__(self, queue: "AdmissionQueue", ticket: Ticket, now: float, seconds: float) -> None:
        self._queue = queue
        self._timer: asyncio.TimerHandle | None = None
        self.ticket = ticket
        self.since = now
        """Since when it has been waiting, or running once it runs (the loop's clock)."""
        self.seconds = seconds
        """How long it may wait, all in all."""
        self._left = seconds
        self.ready: asyncio.Future[None] | None = None
        """Done when the ticket runs (or fails with ApiError); None when it ran at once."""

    @property
    def backend(self) -> str:
        """The url of the backend this place is on; only once the wait is over."""
        if self.ticket.backend is None:
            raise RuntimeError("this place is still waiting")
        return self.ticket.backend

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.leave(self)

    def begun(self) -> None:
        """The backend has begun to answer."""
        self._queue.breakers.begun(self.backend)

    def answered(self) -> None:
        """The backend has answered to the end, as it should."""
        self._queue.breakers.answered(self.backend)

    def failed(self, failure: Failure, *, sure: bool = False) -> None:
        """The backend has failed on this request; with ``sure`` it will on others, too."""
        self._queue.breakers.failed(
            self.backend, failure, user=self.ticket.user, since=self.since, sure=sure
        )

    def can_retry(self) -> bool:
        """Whether the backend was fine until now, so that it may be so again in a moment."""
        return self._queue.breakers.circuit(self.backend).state is State.CLOSED

    def can_move(self) -> bool:
        """Whether there is another backend to try."""
        return self._queue.can_move(self)

    def move(self) -> bool:
        """Give up the backend for another, at once or after a wait for ``ready``; False when there
        is none that was not tried yet."""
        return self._queue.move(self)

    def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to wait, for as long as may be; once more after the backend of a place failed, for
        what is left of that."""
        self.ready = loop.create_future()
        self._timer = loop.call_later(self._left, self._expire)

    def settle(self, error: ApiError | None = None) -> None:
        """End the wait."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._left = max(0.0, timer.when() - asyncio.get_running_loop().time())
        if self.ready is not None and not self.ready.done():
            if error is None:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(error)

    def _expire(self) -> None:
        self._timer = None
        self.settle(
            unavailable(
                "queue_timeout",
                f"No place became free within {self.seconds:g} seconds.",
                retry_after=self._queue.retry_after(),
            )
        )


class AdmissionQueue:
    """Places on the backends of one model."""

    def __init__(
        self,
        capacities: Mapping[str, int],
        *,
        limit: int,
        wait_seconds: float,
        model: str = "",
        reachable: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """``limit`` is how many may wait for each backend; one user may take a quarter of it.
        ``reachable`` tells whether a backend takes a connection."""
        self._limit = limit
        self._wait_seconds = wait_seconds
        self._capacities = dict(capacities)
        self.breakers = Breakers(capacities, self._reckon, model=model, reachable=reachable)
        """What places have learned of their backends."""
        self._scheduler = Scheduler(capacities, limit=0, user_limit=0)
        self._set_limits()
        self._places: dict[Ticket, Place] = {}
        """Those that wait."""
        self._closed: Callable[[], ApiError] | None = None
        self._hold_seconds = 1.0
        """How long a request holds a place, as a moving average: for Retry-After."""

    @property
    def has_replicas(self) -> bool:
        """Whether there is a choice of backends."""
        return len(self._capacities) > 1

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return self._scheduler.depth

    def running(self) -> dict[str, int]:
        """How many run on each backend, by its url."""
        return self._scheduler.running()

    def states(self) -> dict[str, State]:
        """The circuit of each backend, by its url, in the order of the routes file."""
        return {name: self.breakers.circuit(name).state for name in self._capacities}

    def enter(
        self,
        user: int,
        *,
        weight: int = 1,
        batch: bool = False,
        conversation: int | None = None,
        wait_seconds: float | None = None,
    ) -> Place:
        """A place for a request of ``user``, at once or to wait for.

        ApiError 429 when the user has too many waiting, 503 when the whole queue is full, when no
        backend works at the moment, or when the proxy is stopping.
        """
        if self._closed is not None:
            raise self._closed()
        if not self._scheduler.capacity:
            raise self._all_out()
        loop = asyncio.get_running_loop()
        try:
            ticket = self._scheduler.submit(
                user, weight=weight, batch=batch, conversation=conversation
            )
        except QueueFullError as full:
            raise self._refusal(own=full.own) from None
        seconds = self._wait_seconds if wait_seconds is None else wait_seconds
        place = Place(self, ticket, loop.time(), seconds)
        if ticket.backend is None:
            place.wait(loop)
            self._places[ticket] = place
        return place

    def leave(self, place: Place) -> None:
        """Give the place back; the next one in the queue has it."""
        place.settle()
        self._places.pop(place.ticket, None)
        if place.ticket.backend is not None and not place.ticket.over:
            held = asyncio.get_running_loop().time() - place.since
            self._hold_seconds += 0.2 * (held - self._hold_seconds)
        self._wake(self._scheduler.leave(place.ticket))

    def resize(self, capacities: Mapping[str, int]) -> None:
        """Other backends from now on. What is known of those that stay is kept."""
        self._capacities = dict(capacities)
        self.breakers.resize(capacities)
        self._set_limits()
        self._reckon()

    def close(self, why: Callable[[], ApiError] | None = None) -> None:
        """Admit nobody any more and send away who waits; what runs goes on. ``why`` is what they
        are told; at first that the proxy is stopping."""
        self._closed = why or stopping
        self.breakers.close()
        for place in list(self._places.values()):
            place.settle(self._closed())

    def retry_after(self) -> int:
        """Seconds until the queue has probably moved by its whole length, 1..60."""
        turns = (self._scheduler.depth + 1) / max(1, self._scheduler.capacity)
        return min(60, max(1, ceil(turns * self._hold_seconds)))

    def can_move(self, place: Place) -> bool:
        """See Place."""
        return self._scheduler.can_move(place.ticket)

    def move(self, place: Place) -> bool:
        """See Place."""
        ticket = place.ticket
        if not self._scheduler.can_move(ticket):
            return False
        place.ready = None
        self._places[ticket] = place
        self._wake(self._scheduler.move(ticket))
        if ticket.backend is None:
            place.wait(asyncio.get_running_loop())
            if self._closed is not None:
                place.settle(self._closed())
        return True

    def _reckon(self) -> None:
        """Backends or circuits have changed: let in whom that lets in, and send away who would wait
        for nothing."""
        rooms = {
            name: self.breakers.circuit(name).room(capacity)
            for name, capacity in self._capacities.items()
        }
        self._wake(self._scheduler.resize(rooms))
        if not self._scheduler.capacity:
            for place in list(self._places.values()):
                place.settle(self._all_out())
        for ticket in self._scheduler.stranded():
            self._places[ticket].settle(backend_away())

    def _wake(self, admitted: Iterable[Ticket]) -> None:
        for ticket in admitted:
            place = self._places.pop(ticket)
            place.since = asyncio.get_running_loop().time()
            place.settle()

    def _set_limits(self) -> None:
        total = self._limit * max(1, len(self._capacities))
        self._scheduler.limit = total
        self._scheduler.user_limit = min(total, max(1, total // 4))

    def _all_out(self) -> ApiError:
        return backend_away(retry_after=ceil(self.breakers.retry_after()))

    def _refusal(self, *, own: bool) -> ApiError:
        seconds = self.retry_after()
        if own:
            return ApiError(
                429,
                "too_many_waiting_requests",
                "You have as many requests waiting for this model as one user may have.",
                type="requests",
                headers={"Retry-After": str(seconds)},
            )
        return unavailable(
            "queue_full",
            "As many requests wait for this model as may wait. Try again later.",
            retry_after=seconds,
        )


def stopping() -> ApiError:
    """What a request is told that comes, or still waits, while the proxy stops."""
    return unavailable("server_stopping", "The server is stopping. Try again.", retry_after=5)
