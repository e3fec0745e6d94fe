"""A fair wait for a place on a backend.

``Scheduler`` is the state: plain data, no clock and no event loop, so that every order of events
can be tested. ``AdmissionQueue`` is the thin front that lets a coroutine wait. One queue serves
one model, whose backends are replicas of each other.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from types import TracebackType
from typing import Self

from .errors import ApiError, unavailable


class QueueFullError(Exception):
    """No more requests may wait. ``own`` tells that it is this user's share that is full."""

    def __init__(self, *, own: bool) -> None:
        super().__init__("this user's share is full" if own else "the queue is full")
        self.own = own


@dataclass(eq=False, slots=True)
class Ticket:
    """One request: waiting while ``backend`` is None, running on that backend otherwise."""

    user: int
    backend: str | None = None
    over: bool = False
    """Left the scheduler: released, or given up while waiting."""


class Scheduler:
    """Who runs, who waits, and who is next: round robin over the users that wait, and in order
    of arrival for each of them."""

    def __init__(self, capacities: Mapping[str, int], *, limit: int, user_limit: int) -> None:
        self._capacities = dict(capacities)
        self._limit = limit
        self._user_limit = user_limit
        self._running: dict[str, int] = dict.fromkeys(self._capacities, 0)
        self._waiting: OrderedDict[int, deque[Ticket]] = OrderedDict()
        """Users in the order in which they are next; nobody without a ticket."""
        self._depth = 0

    @property
    def depth(self) -> int:
        """How many wait."""
        return self._depth

    @property
    def capacity(self) -> int:
        """How many can run at a time."""
        return sum(self._capacities.values())

    def running(self) -> dict[str, int]:
        """How many run on each backend."""
        return dict(self._running)

    def submit(self, user: int) -> Ticket:
        """A ticket that runs already, or waits. QueueFullError when it would wait, and may not."""
        ticket = Ticket(user)
        if not self._waiting and self._place(ticket):
            return ticket
        own = self._waiting.get(user)
        if self._depth >= self._limit:
            raise QueueFullError(own=False)
        if own is not None and len(own) >= self._user_limit:
            raise QueueFullError(own=True)
        if own is None:
            own = self._waiting[user] = deque()
        own.append(ticket)
        self._depth += 1
        return ticket

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """The ticket ends, in whatever phase it is; again is harmless. Returns who runs now."""
        if ticket.over:
            return []
        ticket.over = True
        if ticket.backend is None:
            self._withdraw(ticket)
            return []
        self._running[ticket.backend] -= 1
        if ticket.backend not in self._capacities and not self._running[ticket.backend]:
            del self._running[ticket.backend]
        return self._admit()

    def resize(self, capacities: Mapping[str, int]) -> list[Ticket]:
        """Other backends or capacities from now on. What runs goes on; returns who runs now."""
        self._capacities = dict(capacities)
        self._running = {
            name: self._running.get(name, 0)
            for name in {**self._running, **self._capacities}
            if name in self._capacities or self._running.get(name)
        }
        return self._admit()

    def _place(self, ticket: Ticket) -> bool:
        """Put the ticket on the least busy backend that has room."""
        best: str | None = None
        for name, capacity in self._capacities.items():
            running = self._running[name]
            if running >= capacity:
                continue
            if best is None or running * self._capacities[best] < self._running[best] * capacity:
                best = name
        if best is None:
            return False
        ticket.backend = best
        self._running[best] += 1
        return True

    def _admit(self) -> list[Ticket]:
        admitted = []
        while self._waiting:
            user, own = next(iter(self._waiting.items()))
            if not self._place(own[0]):
                break
            admitted.append(own.popleft())
            self._depth -= 1
            del self._waiting[user]
            if own:
                self._waiting[user] = own
        return admitted

    def _withdraw(self, ticket: Ticket) -> None:
        own = self._waiting[ticket.user]
        own.remove(ticket)
        self._depth -= 1
        if not own:
            del self._waiting[ticket.user]


class Place:
    """A place in the queue, then on a backend. Use it as a context manager: it is given back
    however the block ends."""

    __slots__ = ("_queue", "_timer", "ready", "since", "ticket")

    def __init__(self, queue: "AdmissionQueue", ticket: Ticket, now: float) -> None:
        self._queue = queue
        self._timer: asyncio.TimerHandle | None = None
        self.ticket = ticket
        self.since = now
        """Since when it has been waiting, or running once it runs (the loop's clock)."""
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

    def wait_until(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Start the wait; it fails after ``seconds``."""
        self.ready = loop.create_future()
        self._timer = loop.call_later(seconds, self._expire, seconds)

    def settle(self, error: ApiError | None = None) -> None:
        """End the wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.ready is not None and not self.ready.done():
            if error is None:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(error)

    def _expire(self, seconds: float) -> None:
        self._timer = None
        self.settle(
            unavailable(
                "queue_timeout",
                f"No place became free within {seconds:g} seconds.",
                retry_after=self._queue.retry_after(),
            )
        )


class AdmissionQueue:
    """Places on the backends of one model."""

    def __init__(self, capacities: Mapping[str, int], *, limit: int, wait_seconds: float) -> None:
        """``limit`` is how many may wait for each backend; one user may take a quarter of it."""
        self._limit = limit
        self._wait_seconds = wait_seconds
        total = limit * max(1, len(capacities))
        self._scheduler = Scheduler(
            capacities, limit=total, user_limit=min(total, max(1, total // 4))
        )
        self._places: dict[Ticket, Place] = {}
        self._closed: Callable[[], ApiError] | None = None
        self._hold_seconds = 1.0
        """How long a request holds a place, as a moving average: for Retry-After."""

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return self._scheduler.depth

    def running(self) -> dict[str, int]:
        """How many run on each backend, by its url."""
        return self._scheduler.running()

    def enter(self, user: int) -> Place:
        """A place for a request of ``user``, at once or to wait for.

        ApiError 429 when the user has too many waiting, 503 when the whole queue is full or the
        proxy is stopping.
        """
        if self._closed is not None:
            raise self._closed()
        loop = asyncio.get_running_loop()
        try:
            ticket = self._scheduler.submit(user)
        except QueueFullError as full:
            raise self._refusal(own=full.own) from None
        place = Place(self, ticket, loop.time())
        if ticket.backend is None:
            place.wait_until(loop, self._wait_seconds)
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
        """Other backends from now on."""
        self._wake(self._scheduler.resize(capacities))

    def close(self, why: Callable[[], ApiError] | None = None) -> None:
        """Admit nobody any more and send away who waits; what runs goes on. ``why`` is what they
        are told; at first that the proxy is stopping."""
        self._closed = why or stopping
        for place in list(self._places.values()):
            place.settle(self._closed())

    def retry_after(self) -> int:
        """Seconds until the queue has probably moved by its whole length, 1..60."""
        turns = (self._scheduler.depth + 1) / max(1, self._scheduler.capacity)
        return min(60, max(1, ceil(turns * self._hold_seconds)))

    def _wake(self, admitted: Iterable[Ticket]) -> None:
        for ticket in admitted:
            place = self._places.pop(ticket)
            place.since = asyncio.get_running_loop().time()
            place.settle()

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
