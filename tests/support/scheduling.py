"""A scheduler, and beside it a plain account of what may happen, which every event is held against.

The account knows nothing of tags or heaps: only who came when, who has had how many turns since,
and how full the backends are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import takewhile
from operator import is_not

from llamakit_proxy.scheduler import PATIENCE, QueueFullError, Scheduler
from llamakit_proxy.turns import Ticket


class Account:
    """One model's queue under test. Users are numbered from 0; ``weights`` has one for each.

    Attributes:
        scheduler: what is tested.
        capacities: of the backends, as they are now.
        running: the tickets that run, in the order in which they began.
        waiting: those that wait, in the order in which they came.
        moving: those of them that had a place already.
    """

    def __init__(
        self, capacities: Mapping[str, int], *, limit: int, user_limit: int, weights: list[int]
    ) -> None:
        self.scheduler = Scheduler(capacities, limit=limit, user_limit=user_limit)
        self.capacities = dict(capacities)
        self.running: dict[Ticket, None] = {}
        self.waiting: dict[Ticket, None] = {}
        self.moving: dict[Ticket, None] = {}
        self._limit, self._user_limit = limit, user_limit
        self._weights = weights
        self._load: dict[str, int] = dict.fromkeys(capacities, 0)
        self._lines: list[list[deque[Ticket]]] = [
            [deque() for _ in weights], [deque() for _ in weights]
        ]  # fmt: skip
        self._depth = [0, 0]
        self._turns = [[0] * len(weights), [0] * len(weights)]
        """By kind (interactive, batch) and user: how many had their turn."""
        self._came: dict[Ticket, tuple[int, list[int]]] = {}
        """The number of each ticket among its user's own, and the turns there had been."""
        self._passed_over = 0
        self._homes: dict[int, str] = {}

    # -- events --------------------------------------------------------------------------------

    def submit(self, user: int, *, batch: bool = False, talk: int | None = None) -> Ticket | None:
        """The new ticket; None when it was refused, as it should be."""
        own = len(self._lines[0][user]) + len(self._lines[1][user])
        depth = sum(self._depth)
        refused = depth >= self._limit or own >= self._user_limit
        try:
            ticket = self.scheduler.submit(
                user, weight=self._weights[user], batch=batch, conversation=talk
            )
        except QueueFullError as full:
            if not refused or full.own == (depth >= self._limit):
                raise AssertionError("refused for no reason, or for the wrong one") from full
            return None
        if ticket.backend is not None:
            assert not depth, "a newcomer overtook those that wait"
            self._begins(ticket)
            return ticket
        assert not refused
        line = self._lines[batch][user]
        line.append(ticket)
        self._depth[batch] += 1
        self.waiting[ticket] = None
        self._came[ticket] = (len(line), self._turns[batch].copy())
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """It ends, or is given up, or has waited too long."""
        if ticket in self.running:
            del self.running[ticket]
            self._unload(ticket)
        elif ticket in self.waiting:
            del self.waiting[ticket]
            if ticket in self.moving:
                del self.moving[ticket]
            else:
                self._lines[ticket.batch][ticket.user].remove(ticket)
                self._depth[ticket.batch] -= 1
        self._admitted(self.scheduler.leave(ticket))

    def move(self, ticket: Ticket) -> None:
        """Its backend has failed."""
        assert ticket.backend is not None
        del self.running[ticket]
        self._unload(ticket)
        self.waiting[ticket] = self.moving[ticket] = None
        left = ticket.backend
        self._admitted(self.scheduler.move(ticket))
        assert ticket.backend != left
        assert left in ticket.tried

    def resize(self, capacities: Mapping[str, int]) -> None:
        """Backends come, go, fail and recover."""
        self.capacities = dict(capacities)
        for name in capacities:
            self._load.setdefault(name, 0)
        self._forget_the_gone()
        self._admitted(self.scheduler.resize(capacities))

    # -- what must hold ------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is lost or doubled, and nobody waits for a place that is free."""
        assert self.scheduler.depth == len(self.waiting)
        assert self.scheduler.running() == self._load
        if not self.waiting:
            return
        free = [name for name, capacity in self.capacities.items() if self._load[name] < capacity]
        assert not (free and sum(self._depth)), "somebody waits beside a free place"
        for ticket in self.moving:
            assert set(free) <= set(ticket.tried)

    def _admitted(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            assert ticket.backend is not None
            del self.waiting[ticket]
            if ticket in self.moving:
                for earlier in takewhile(partial(is_not, ticket), self.moving):
                    assert not self._usable(ticket.backend, earlier), "moved past another"
                del self.moving[ticket]
            else:
                self._has_its_turn(ticket)
            self._begins(ticket)

    def _has_its_turn(self, ticket: Ticket) -> None:
        kind, user = ticket.batch, ticket.user
        line = self._lines[kind][user]
        assert line.popleft() is ticket, "somebody of the same user was passed over"
        self._depth[kind] -= 1
        number, before = self._came.pop(ticket)
        own = self._weights[user]
        for other, (then, now) in enumerate(zip(before, self._turns[kind], strict=True)):
            if other != user:
                most = number * self._weights[other] // own + 1
                assert now - then <= most, f"{other} had {now - then} turns, {user} none"
        self._turns[kind][user] += 1
        if kind:
            assert not self._depth[0] or self._passed_over >= PATIENCE, "batch went first"
            self._passed_over = 0
        else:
            self._passed_over = self._passed_over + 1 if self._depth[1] else 0
            assert self._passed_over <= PATIENCE, "batch was passed over too often"

    def _begins(self, ticket: Ticket) -> None:
        """It was given the right place."""
        chosen = ticket.backend
        assert chosen is not None
        assert self._usable(chosen, ticket), "more than the backend can do"
        home = self._homes.get(-1 if ticket.conversation is None else ticket.conversation, "")
        if self._usable(home, ticket):
            assert chosen == home
        else:
            load, size = self._load[chosen], self.capacities[chosen]
            for name, other in self.capacities.items():
                if self._load[name] < other and name not in ticket.tried:
                    assert load * other <= self._load[name] * size, "another is less busy"
        if ticket.conversation is not None:
            self._homes[ticket.conversation] = chosen
        self._load[chosen] += 1
        self.running[ticket] = None

    def _usable(self, name: str, ticket: Ticket) -> bool:
        capacity = self.capacities.get(name, 0)
        return bool(capacity) and self._load[name] < capacity and name not in ticket.tried

    def _unload(self, ticket: Ticket) -> None:
        assert ticket.backend is not None
        self._load[ticket.backend] -= 1
        self._forget_the_gone()

    def _forget_the_gone(self) -> None:
        for name in [name for name, load in self._load.items() if not load]:
            if name not in self.capacities:
                del self._load[name]
