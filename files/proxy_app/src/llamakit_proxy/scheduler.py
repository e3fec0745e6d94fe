"""Who runs, who waits, who is next, and on which backend.

Plain data, no clock and no event loop, so that every order of events can be tested.

Interactive requests go before those of batch keys, each kind by its own ``Turns``. A batch request
is passed over PATIENCE times at most before the next place goes to one of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .affinity import Homes
from .turns import Ticket, Turns

PATIENCE = 8


class QueueFullError(Exception):
    """No more requests may wait. ``own`` tells that it is this user's share that is full."""

    def __init__(self, *, own: bool) -> None:
        super().__init__("this user's share is full" if own else "the queue is full")
        self.own = own


@dataclass(eq=False, slots=True)
class _Backend:
    capacity: int
    running: int = 0
    used: int = 0
    """When it was last given a request, counted in requests."""
    known: bool = True
    """False once it is only there for what it still runs."""


class Scheduler:
    """The state of one model's queue."""

    def __init__(self, capacities: Mapping[str, int], *, limit: int, user_limit: int) -> None:
        """``capacities`` may be 0. At most ``limit`` wait, ``user_limit`` of one user."""
        self.limit = limit
        self.user_limit = user_limit
        self.capacity = 0
        """How many can run at a time."""
        self._backends: dict[str, _Backend] = {}
        self._interactive = Turns()
        self._batch = Turns()
        self._passed_over = 0
        """How often in a row a batch request was."""
        self._moving: list[Ticket] = []
        """Had a place already, on a backend that failed them: they go before all others."""
        self._own: dict[int, int] = {}
        """How many each user has waiting, without those."""
        self._homes = Homes()
        self._placed = 0
        self.resize(capacities)

    @property
    def depth(self) -> int:
        """How many wait."""
        return self._interactive.depth + self._batch.depth + len(self._moving)

    def running(self) -> dict[str, int]:
        """How many run on each backend."""
        return {name: backend.running for name, backend in self._backends.items()}

    def submit(
        self, user: int, *, weight: int = 1, batch: bool = False, conversation: int | None = None
    ) -> Ticket:
        """A ticket that runs already, or waits. QueueFullError when it would wait, and may not."""
        ticket = Ticket(user, weight, batch, conversation)
        waiting = self._interactive.depth + self._batch.depth
        if not waiting and self._place(ticket):
            return ticket
        if waiting >= self.limit:
            raise QueueFullError(own=False)
        own = self._own.get(user, 0)
        if own >= self.user_limit:
            raise QueueFullError(own=True)
        self._own[user] = own + 1
        (self._batch if batch else self._interactive).add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """The ticket ends, in whatever phase it is; again is harmless. Returns who runs now."""
        if ticket.over:
            return []
        ticket.over = True
        if ticket.backend is not None:
            self._release(ticket.backend)
            return self._admit()
        if ticket.tried:
            self._moving.remove(ticket)
        else:
            (self._batch if ticket.batch else self._interactive).drop(ticket)
            self._waits_no_more(ticket)
        return []

    def can_move(self, ticket: Ticket) -> bool:
        """Whether there is a backend, free or not, that this one was not on yet."""
        return any(
            backend.capacity and name != ticket.backend and name not in ticket.tried
            for name, backend in self._backends.items()
        )

    def move(self, ticket: Ticket) -> list[Ticket]:
        """Give up the place of a ticket that runs for one on another backend: at once, or before
        all others that wait. Returns who runs now, this one perhaps among them."""
        if ticket.backend is None:
            raise ValueError("a ticket that waits has no place to give up")
        self._release(ticket.backend)
        ticket.tried = (*ticket.tried, ticket.backend)
        ticket.backend = None
        self._moving.append(ticket)
        return self._admit()

    def stranded(self) -> list[Ticket]:
        """Tickets that wait to be moved while no backend is left for them."""
        return [ticket for ticket in self._moving if not self.can_move(ticket)]

    def resize(self, capacities: Mapping[str, int]) -> list[Ticket]:
        """Other backends or capacities from now on. What runs goes on; returns who runs now."""
        for name, backend in list(self._backends.items()):
            backend.known = name in capacities
            if not backend.known:
                backend.capacity = 0
                self._forget_if_done(name, backend)
        for name, capacity in capacities.items():
            known = self._backends.get(name)
            if known is None:
                self._backends[name] = _Backend(capacity)
            else:
                known.capacity = capacity
        self.capacity = sum(capacities.values())
        return self._admit()

    def _place(self, ticket: Ticket) -> bool:
        """Put the ticket on the backend that its conversation was on, if that is free, else on the
        least busy one; of two, the one that was left alone for longer, so that the other keeps the
        prompt it has. False when all are full."""
        best, best_name = None, ""
        if ticket.conversation is not None:
            best_name = self._homes.get(ticket.conversation) or ""
            best = self._backends.get(best_name)
            if best is not None and (best.running >= best.capacity or best_name in ticket.tried):
                best = None
        if best is None:
            for name, backend in self._backends.items():
                if backend.running >= backend.capacity or name in ticket.tried:
                    continue
                if best is not None:
                    # The shares running / capacity, compared without dividing.
                    here, there = (
                        backend.running * best.capacity,
                        best.running * backend.capacity,
                    )
                    if here > there or (here == there and backend.used >= best.used):
                        continue
                best, best_name = backend, name
            if best is None:
                return False
        self._placed += 1
        best.used = self._placed
        best.running += 1
        ticket.backend = best_name
        if ticket.conversation is not None:
            self._homes.put(ticket.conversation, best_name)
        return True

    def _admit(self) -> list[Ticket]:
        admitted = [ticket for ticket in self._moving if self._place(ticket)]
        if admitted:
            self._moving = [ticket for ticket in self._moving if ticket.backend is None]
        interactive, batch = self._interactive, self._batch
        while interactive.depth or batch.depth:
            turns = interactive
            if batch.depth and (not interactive.depth or self._passed_over >= PATIENCE):
                turns = batch
            ticket = turns.first()
            if not self._place(ticket):
                break
            turns.take()
            self._waits_no_more(ticket)
            passes_over = turns is interactive and batch.depth
            self._passed_over = self._passed_over + 1 if passes_over else 0
            admitted.append(ticket)
        return admitted

    def _waits_no_more(self, ticket: Ticket) -> None:
        self._own[ticket.user] -= 1
        if not self._own[ticket.user]:
            del self._own[ticket.user]

    def _release(self, name: str) -> None:
        backend = self._backends[name]
        backend.running -= 1
        self._forget_if_done(name, backend)

    def _forget_if_done(self, name: str, backend: _Backend) -> None:
        if not backend.known and not backend.running:
            del self._backends[name]
