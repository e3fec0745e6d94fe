"""The queue's state under any order of events."""

from collections import Counter

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from llamakit_proxy.scheduler import QueueFullError, Scheduler
from llamakit_proxy.turns import Ticket

LIMIT = 8
USER_LIMIT = 3


class SchedulerMachine(RuleBasedStateMachine):
    """Submits, ends, gives up and resizes in any order; a simple model keeps count."""

    tickets: Bundle[Ticket] = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.capacities = {"a": 1, "b": 2}
        self.scheduler = Scheduler(self.capacities, limit=LIMIT, user_limit=USER_LIMIT)
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []

    @rule(target=tickets, user=st.integers(1, 4))
    def submit(self, user: int) -> Ticket | MultipleResults[Ticket]:
        own = sum(ticket.user == user for ticket in self.waiting)
        if len(self.waiting) == LIMIT or own == USER_LIMIT:
            with pytest.raises(QueueFullError) as full:
                self.scheduler.submit(user)
            assert full.value.own == (len(self.waiting) < LIMIT)
            return multiple()
        ticket = self.scheduler.submit(user)
        (self.running if ticket.backend else self.waiting).append(ticket)
        return ticket

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket) -> None:
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        elif ticket in self.running:
            self.running.remove(ticket)
        self._admitted(self.scheduler.leave(ticket))

    @rule(ticket=tickets)
    def leave_twice(self, ticket: Ticket) -> None:
        self.leave(ticket)
        assert self.scheduler.leave(ticket) == []

    @rule(a=st.integers(0, 3), b=st.integers(0, 3))
    def resize(self, a: int, b: int) -> None:
        self.capacities = {name: size for name, size in (("a", a), ("b", b)) if size}
        self._admitted(self.scheduler.resize(self.capacities))

    def _admitted(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            ahead = [other for other in self.waiting if other.user == ticket.user]
            assert ahead[0] is ticket, "somebody of the same user was passed over"
            self.waiting.remove(ticket)
            self.running.append(ticket)

    @invariant()
    def counts_agree(self) -> None:
        assert self.scheduler.depth == len(self.waiting) <= LIMIT
        assert all(ticket.backend is None for ticket in self.waiting)
        counted = Counter(ticket.backend for ticket in self.running)
        running = self.scheduler.running()
        assert {name: count for name, count in running.items() if count} == counted

    @invariant()
    def no_place_is_left_empty(self) -> None:
        running = self.scheduler.running()
        if self.waiting:
            assert all(running[name] >= size for name, size in self.capacities.items())


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=60, deadline=None
)


def test_turns_go_round() -> None:
    scheduler = Scheduler({"a": 1}, limit=100, user_limit=50)
    running = scheduler.submit(1)
    waiting = [scheduler.submit(user) for user in (1, 1, 1, 2, 2, 3)]
    served = []
    while True:
        admitted = scheduler.leave(running)
        if not admitted:
            break
        (running,) = admitted
        served.append(running.user)
    assert served == [1, 2, 3, 1, 2, 1]
    assert all(ticket.backend == "a" for ticket in waiting)


def test_a_newcomer_does_not_overtake() -> None:
    scheduler = Scheduler({"a": 1}, limit=10, user_limit=10)
    first = scheduler.submit(1)
    second = scheduler.submit(2)
    assert scheduler.leave(first) == [second]
    assert scheduler.submit(3).backend is None


def test_least_busy_backend_by_its_share() -> None:
    scheduler = Scheduler({"small": 1, "large": 4}, limit=0, user_limit=0)
    placed = [scheduler.submit(1).backend for _ in range(5)]
    assert Counter(placed) == {"small": 1, "large": 4}
    with pytest.raises(QueueFullError):
        scheduler.submit(1)


def test_a_removed_backend_finishes_what_it_has() -> None:
    scheduler = Scheduler({"old": 1}, limit=5, user_limit=5)
    ticket, waiting = scheduler.submit(1), scheduler.submit(1)
    assert scheduler.resize({"new": 1}) == [waiting]
    assert scheduler.running() == {"old": 1, "new": 1}
    assert scheduler.leave(ticket) == []
    assert scheduler.running() == {"new": 1}
