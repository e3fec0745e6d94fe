"""The ledger's promise: all processes together never spend more than the limit."""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit_proxy.allowance import Kind, Rule
from llamakit_proxy.ledger import (
    IDLE_SECONDS,
    LEASE_SECONDS,
    ROUND_SECONDS,
    Answer,
    Ledger,
    Report,
)
from llamakit_proxy.meter import Ask, Meter

USER = 1
STEP_SECONDS = 0.25


@dataclass
class Account:
    """What settle_limits does, without its clock: limits are counted in exact moments."""

    entries: dict[float, int] = field(default_factory=lambda: defaultdict(int))
    idles: dict[float, int] = field(default_factory=lambda: defaultdict(int))

    def settle(self, report: Report, now: float) -> Answer:
        rule = report.rule
        lease_until = now + LEASE_SECONDS if not rule.kind.calendar else 1e9
        spent_until = now - report.age_seconds if not rule.kind.calendar else 1e9
        bucket = self._name(report.bucket)
        if bucket in self.entries:
            self.entries[bucket] = max(0, self.entries[bucket] - report.leased)
            self.idles[bucket] = max(0, self.idles[bucket] - report.unused)
        self.entries[spent_until] += report.spent
        self.entries[lease_until] += report.held + report.kept
        self.idles[lease_until] += report.kept
        for until in [u for u in self.entries if u + rule.window <= now]:
            del self.entries[until]
            self.idles.pop(until, None)
        used = sum(self.entries.values())
        spare = max(0, rule.limit - used)
        share = spare // report.share if report.share else 0
        gift = min(spare, max(report.needed, share))
        self.entries[lease_until] += gift
        self.idles[lease_until] += max(0, gift - report.needed)
        outs: tuple[tuple[float, int], ...] = ()
        if gift < report.needed:
            outs = tuple(
                (until + rule.window - now, amount)
                for until, amount in sorted(self.entries.items())
                if amount
            )
        return Answer(
            granted=gift,
            free=rule.limit - used - gift,
            bucket=int(lease_until * 1000),
            valid_seconds=lease_until - now,
            idle=sum(self.idles.values()) - report.kept - max(0, gift - report.needed),
            outs=outs,
        )

    def _name(self, bucket: int) -> float:
        return next((until for until in self.entries if int(until * 1000) == bucket), -1.0)


class World:
    """Some processes, one account, and everything that was ever spent."""

    def __init__(self, rule: Rule, processes: int) -> None:
        self.rule = rule
        self.account = Account()
        self.ledgers = [Ledger() for _ in range(processes)]
        self.now = 1000.0
        self.held: list[tuple[int, Meter, int]] = []
        self.spent: list[tuple[float, int]] = []
        self.flying: list[tuple[int, Report, Answer]] = []

    def ask(self, process: int, amount: int) -> Ask | None:
        """A request; the one to wait for, when it has to."""
        ledger = self.ledgers[process]
        meter = ledger.meter(USER, self.rule)
        if ledger.take(meter, amount, self.now):
            self.held.append((process, meter, amount))
            return None
        if meter.known_refusal(amount, self.now) is not None:
            return None
        return ledger.ask(meter, amount, self.now)

    def end(self, number: int, part: float) -> None:
        """A request that runs ends, having used a part of what it holds."""
        if not self.held:
            return
        process, meter, amount = self.held.pop(number % len(self.held))
        used = 0 if self.rule.kind is Kind.CONCURRENT else round(amount * part)
        self.ledgers[process].settle(meter, amount, used, self.now)
        self.spent.append((self.now, used))

    def send(self, process: int) -> None:
        """The account hears a report; its answer is on the way."""
        if not any(flying[0] == process for flying in self.flying):
            for report in self.ledgers[process].reports(self.now, 10):
                self.flying.append((process, report, self.account.settle(report, self.now)))

    def receive(self, process: int) -> None:
        for flight in [flight for flight in self.flying if flight[0] == process]:
            self.flying.remove(flight)
            decided = self.ledgers[process].apply(flight[1], flight[2], self.now)
            for ask in decided:
                if ask.answer is not None and ask.answer.allowed:
                    self.held.append((process, ask.meter, ask.amount))

    def lose(self, process: int, *, heard: bool) -> None:
        """The connection breaks; the account has heard the report, or not."""
        if heard:
            self.send(process)
            flights = [flight for flight in self.flying if flight[0] == process]
            self.flying = [flight for flight in self.flying if flight[0] != process]
            reports = [report for _, report, _ in flights]
        elif not any(flying[0] == process for flying in self.flying):
            reports = self.ledgers[process].reports(self.now, 10)
        else:
            return
        for report in reports:
            self.ledgers[process].lose(report)

    def kill(self, process: int) -> None:
        """The process is gone with all it knew; what its requests had is spent."""
        for mine in [held for held in self.held if held[0] == process]:
            self.held.remove(mine)
            self.spent.append((self.now, mine[2]))
        self.flying = [flight for flight in self.flying if flight[0] != process]
        self.ledgers[process] = Ledger()

    def wait(self, seconds: float) -> None:
        """Time passes. Whoever holds something renews it before its lease is over: the promise is
        for processes that are not silent for that long, or have nothing in use."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            for process, meter, _ in list(self.held):
                if meter.until - self.now < LEASE_SECONDS / 3:
                    self.receive(process)
                    self.send(process)
                    self.receive(process)

    def check(self) -> None:
        held = sum(amount for _, _, amount in self.held)
        # As the account reckons: the other way round the last digit may differ.
        recent = sum(amount for at, amount in self.spent if at + self.rule.window > self.now)
        if self.rule.kind.calendar:
            recent = sum(amount for _, amount in self.spent)
        if self.rule.kind is Kind.CONCURRENT:
            recent = 0
        assert held + recent <= self.rule.limit


RULES = [
    Rule(Kind.REQUESTS, 1, 2),
    Rule(Kind.REQUESTS, 12, 5),
    Rule(Kind.TOKENS, 100, 20),
    Rule(Kind.CONCURRENT, 8),
    Rule(Kind.DAY, 200),
]


def step(world: World, rule: Rule, chance: random.Random) -> None:
    """Something happens to one of the processes."""
    process = chance.randrange(len(world.ledgers))
    name = chance.choices(
        ("ask", "spend", "end", "talk", "send", "receive", "lose", "kill", "wait"),
        (6, 12, 4, 6, 5, 5, 2, 0.3, 6),
    )[0]
    single = rule.kind in (Kind.REQUESTS, Kind.CONCURRENT)
    amount = 1 if single else chance.choice((1, 3, 10, 40))
    part = 1.0 if rule.kind is Kind.REQUESTS else chance.random()
    if name in ("ask", "spend"):
        waits = world.ask(process, amount) is not None
        if name == "spend" and waits:
            world.send(process)
            world.receive(process)
    if name in ("end", "spend"):
        world.end(chance.randrange(100), part)
    elif name in ("send", "talk"):
        world.send(process)
    if name in ("receive", "talk"):
        world.receive(process)
    elif name == "lose":
        world.lose(process, heard=chance.random() < 0.5)
    elif name == "kill":
        world.kill(process)
    elif name == "wait":
        world.wait(chance.choice((0.05, 0.1, 0.5, 1.0, 2.5, 4.0, 11.0, 25.0)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.limit}-{rule.kind}")
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_never_more_than_the_limit(rule: Rule, seed: int) -> None:
    chance = random.Random(seed)
    world = World(rule, 3)
    for _ in range(400):
        step(world, rule, chance)
        world.check()


def tick(world: World, seconds: float) -> None:
    """Time passes, and everybody reports what is due."""
    end = world.now + seconds
    while world.now < end:
        world.now += STEP_SECONDS
        for process in range(len(world.ledgers)):
            world.send(process)
            world.receive(process)


def spend(world: World, process: int, times: int) -> int:
    """Requests one after the other, with a pause after a refusal; how many were let in."""
    allowed = 0
    for _ in range(times):
        ask = world.ask(process, 1)
        for _ in range(10):
            if ask is None or ask.answer is not None:
                break
            tick(world, STEP_SECONDS)
        if not world.held:
            tick(world, STEP_SECONDS)
        while world.held:
            world.end(0, 1.0)
            allowed += 1
    return allowed


@given(split=st.lists(st.integers(0, 2), min_size=60, max_size=60))
def test_the_limit_is_reached_from_wherever_requests_come(split: list[int]) -> None:
    world = World(Rule(Kind.REQUESTS, 20, 600), 3)
    assert sum(spend(world, process, 1) for process in split) == 20


def test_far_from_the_limit_nobody_waits() -> None:
    world = World(Rule(Kind.REQUESTS, 1000, 60), 1)
    assert world.ask(0, 1) is not None
    tick(world, STEP_SECONDS)
    for _ in range(400):
        assert world.ask(0, 1) is None
        world.send(0)
        world.receive(0)
    assert len(world.held) == 401


def test_a_killed_process_costs_what_it_had_leased_for_a_window() -> None:
    world = World(Rule(Kind.REQUESTS, 40, 60), 2)
    assert spend(world, 0, 1) == 1
    world.kill(0)
    assert spend(world, 1, 40) == 30
    tick(world, 60 + LEASE_SECONDS + ROUND_SECONDS)
    assert spend(world, 1, 50) == 40


def test_an_idle_user_holds_nothing() -> None:
    world = World(Rule(Kind.TOKENS, 1000, 5), 1)
    assert spend(world, 0, 1) == 1
    tick(world, IDLE_SECONDS + 10)
    assert sum(world.account.entries.values()) == 0
    assert world.ledgers[0].reports(world.now + 100, 10) == []


def test_closing_gives_back_what_is_left() -> None:
    world = World(Rule(Kind.DAY, 6400), 1)
    assert spend(world, 0, 1) == 1
    world.ledgers[0].close()
    tick(world, STEP_SECONDS)
    assert sum(world.account.entries.values()) == 1


def test_a_lower_limit_holds_at_once() -> None:
    world = World(Rule(Kind.REQUESTS, 100, 60), 2)
    assert spend(world, 0, 10) == 10
    world.rule = Rule(Kind.REQUESTS, 12, 60)
    assert spend(world, 0, 10) == 2
    world.rule = Rule(Kind.REQUESTS, 15, 60)
    assert spend(world, 0, 10) == 3


def test_alone_a_process_gives_no_more_than_the_limit() -> None:
    rule = Rule(Kind.REQUESTS, 20, 60)
    world = World(rule, 1)
    assert spend(world, 0, 12) == 12
    ledger, meter = world.ledgers[0], world.ledgers[0].meter(USER, rule)
    world.now += LEASE_SECONDS + 1
    allowed = 0
    for _ in range(30):
        answer = ledger.take_alone(meter, 1, world.now)
        if answer.allowed:
            allowed += 1
            ledger.settle(meter, 1, 1, world.now)
    assert allowed == 8
    assert answer.retry_seconds is not None
    assert 40 < answer.retry_seconds < 55
    # What was spent meanwhile counts once the account can be asked again.
    tick(world, ROUND_SECONDS * 2)
    assert sum(world.account.entries.values()) == 20


def test_who_waits_is_answered_when_the_database_goes_away() -> None:
    world = World(Rule(Kind.CONCURRENT, 2), 1)
    ledger = world.ledgers[0]
    asks = [world.ask(0, 1) for _ in range(3)]
    reports = ledger.reports(world.now, 10)
    asks.append(world.ask(0, 1))
    for report in reports:
        ledger.lose(report)
    assert ledger.give_up(world.now) == asks
    assert [ask.answer.allowed for ask in asks if ask and ask.answer] == [True, True, False, False]


def test_who_leaves_while_waiting_holds_nothing() -> None:
    world = World(Rule(Kind.CONCURRENT, 1), 1)
    ledger = world.ledgers[0]
    first, second = world.ask(0, 1), world.ask(0, 1)
    assert first is not None
    assert second is not None
    ledger.withdraw(first, world.now)
    world.send(0)
    world.receive(0)
    assert second.answer is not None
    assert second.answer.allowed
    ledger.withdraw(second, world.now)
    assert second.meter.held == 0


def test_the_number_of_meters_is_bounded() -> None:
    ledger = Ledger(max_meters=100)
    rule = Rule(Kind.REQUESTS, 5, 60)
    running = ledger.meter(0, rule)
    assert ledger.take_alone(running, 1, 0.0).allowed
    for user in range(1, 1000):
        ledger.meter(user, rule)
    assert len(ledger) == 100
    assert ledger.meter(0, rule) is running
