"""The queue's state under any order of events."""

import random
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

from llamakit_proxy.scheduler import PATIENCE, QueueFullError, Scheduler
from llamakit_proxy.turns import Ticket
from support.scheduling import Account

WEIGHTS = [1, 1, 2, 5]


class SchedulerMachine(RuleBasedStateMachine):
    """Submits, ends, gives up, moves and resizes in any order, held against an account."""

    tickets: Bundle[Ticket] = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.account = Account({"a": 1, "b": 2}, limit=8, user_limit=3, weights=WEIGHTS)

    @rule(
        target=tickets,
        user=st.integers(0, 3),
        batch=st.booleans(),
        talk=st.none() | st.integers(0, 2),
    )
    def submit(self, user: int, batch: bool, talk: int | None) -> Ticket | MultipleResults[Ticket]:
        return self.account.submit(user, batch=batch, talk=talk) or multiple()

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket) -> None:
        self.account.leave(ticket)

    @rule(ticket=tickets)
    def leave_twice(self, ticket: Ticket) -> None:
        self.account.leave(ticket)
        assert self.account.scheduler.leave(ticket) == []

    @rule(ticket=tickets)
    def fail(self, ticket: Ticket) -> None:
        if ticket in self.account.running and self.account.scheduler.can_move(ticket):
            self.account.move(ticket)

    @rule()
    def expire(self) -> None:
        for ticket in list(self.account.waiting)[:1]:
            self.account.leave(ticket)

    @rule()
    def drain(self) -> None:
        for ticket in list(self.account.waiting):
            self.account.leave(ticket)

    @rule(a=st.integers(0, 3), b=st.integers(0, 3), c=st.none() | st.integers(0, 1))
    def resize(self, a: int, b: int, c: int | None) -> None:
        sizes = {"a": a, "b": b} if c is None else {"a": a, "b": b, "c": c}
        self.account.resize({name: size for name, size in sizes.items() if size < 3})

    @invariant()
    def all_is_accounted_for(self) -> None:
        self.account.check()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = hypothesis_settings(max_examples=100, stateful_step_count=50)


def test_a_million_events() -> None:
    chance = random.Random(20)
    account = Account(
        {"a": 1, "b": 2, "c": 4}, limit=40, user_limit=10, weights=[1, 1, 1, 2, 3, 10, 100]
    )
    done = Counter[str]()
    for _ in range(1_000_000):
        dice = chance.random()
        running, waiting = account.running, account.waiting
        if dice < 0.48:
            user, talk = int(chance.random() * 7), int(chance.random() * 30)
            account.submit(user, batch=user % 3 == 0, talk=talk if talk < 20 else None)
            event = "submit"
        elif dice < 0.88 and running:
            account.leave(chance.choice([*running]))
            event = "end"
        elif dice < 0.95 and waiting:
            account.leave(chance.choice([*waiting]))
            event = "give up"
        elif dice < 0.99 and running:
            ticket = chance.choice([*running])
            if account.scheduler.can_move(ticket):
                account.move(ticket)
            event = "move"
        else:
            sizes = {name: int(chance.random() * 5) for name in "abcd"}
            account.resize({name: size for name, size in sizes.items() if size < 4})
            event = "resize"
        account.check()
        done[event] += 1
    assert min(done.values()) > 5_000, done
    for ticket in [*account.waiting, *account.running]:
        account.leave(ticket)
    assert account.scheduler.depth == 0
    assert not any(account.scheduler.running().values())


def served(scheduler: Scheduler, running: Ticket) -> list[Ticket]:
    """Those that wait, in the order in which they have the one place there is."""
    order = []
    while admitted := scheduler.leave(running):
        (running,) = admitted
        order.append(running)
    return order


def test_turns_go_round() -> None:
    scheduler = Scheduler({"a": 1}, limit=100, user_limit=50)
    running = scheduler.submit(1)
    waiting = [scheduler.submit(user) for user in (1, 1, 1, 2, 2, 3)]
    assert [ticket.user for ticket in served(scheduler, running)] == [1, 2, 3, 1, 2, 1]
    assert all(ticket.backend == "a" for ticket in waiting)


def test_coming_back_often_gains_nothing() -> None:
    """One user has much waiting, the other one request at a time, again at once."""
    scheduler = Scheduler({"a": 1}, limit=100, user_limit=50)
    running = scheduler.submit(1)
    for _ in range(20):
        scheduler.submit(1)
    turns = Counter[int]()
    scheduler.submit(2)
    for _ in range(20):
        (running,) = scheduler.leave(running)
        turns[running.user] += 1
        if running.user == 2:
            scheduler.submit(2)
    assert turns == {1: 10, 2: 10}


def test_a_heavy_user_has_more_turns() -> None:
    scheduler = Scheduler({"a": 1}, limit=100, user_limit=50)
    running = scheduler.submit(1)
    for _ in range(20):
        scheduler.submit(1, weight=1)
        scheduler.submit(2, weight=3)
    users = [ticket.user for ticket in served(scheduler, running)]
    assert Counter(users[:20]) == {1: 5, 2: 15}


def test_batch_lets_others_go_first_but_not_for_ever() -> None:
    scheduler = Scheduler({"a": 1}, limit=100, user_limit=50)
    running = scheduler.submit(1)
    for _ in range(3):
        scheduler.submit(2, batch=True, weight=100)
    for _ in range(20):
        scheduler.submit(1)
    kinds = [ticket.batch for ticket in served(scheduler, running)]
    first, second, third = (place for place, batch in enumerate(kinds) if batch)
    assert first == PATIENCE
    assert second == first + 1 + PATIENCE
    assert third == 22


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


def test_a_conversation_goes_back_where_it_was() -> None:
    scheduler = Scheduler({"a": 1, "b": 1}, limit=10, user_limit=10)
    homes = {}
    for talk in (7, 8):
        ticket = scheduler.submit(1, conversation=talk)
        homes[talk] = ticket.backend
        scheduler.leave(ticket)
    assert set(homes.values()) == {"a", "b"}, "a new one leaves the other's prompt alone"
    for talk in (8, 7, 7, 8, 8):
        ticket = scheduler.submit(1, conversation=talk)
        assert ticket.backend == homes[talk]
        scheduler.leave(ticket)
    busy = scheduler.submit(2, conversation=7)
    assert busy.backend == homes[7]
    assert scheduler.submit(1, conversation=7).backend == homes[8], "free beats familiar"


def test_a_removed_backend_finishes_what_it_has() -> None:
    scheduler = Scheduler({"old": 1}, limit=5, user_limit=5)
    ticket, waiting = scheduler.submit(1), scheduler.submit(1)
    assert scheduler.resize({"new": 1}) == [waiting]
    assert scheduler.running() == {"old": 1, "new": 1}
    assert scheduler.leave(ticket) == []
    assert scheduler.running() == {"new": 1}


def test_who_moves_goes_before_those_that_wait() -> None:
    scheduler = Scheduler({"a": 1, "b": 1}, limit=10, user_limit=10)
    first, second = scheduler.submit(1), scheduler.submit(2)
    waiting = scheduler.submit(3)
    assert scheduler.move(first) == [waiting], "the place it gave up is another's"
    assert first.backend is None
    assert scheduler.leave(second) == [first]
    assert first.backend == "b"
    assert not scheduler.can_move(first), "once each"


def test_who_moves_is_stranded_when_the_last_one_goes() -> None:
    scheduler = Scheduler({"a": 1, "b": 1}, limit=10, user_limit=10)
    first, _second = scheduler.submit(1), scheduler.submit(2)
    scheduler.move(first)
    assert scheduler.stranded() == []
    scheduler.resize({"a": 1, "b": 0})
    assert scheduler.stranded() == [first]
    assert scheduler.leave(first) == []
    assert scheduler.depth == 0
