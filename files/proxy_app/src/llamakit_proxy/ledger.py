"""What this process may spend of its users' limits without asking each time: leases.

The state alone, without a clock, an event loop or a database, so that every order of events can be
tested. Each user has an account for each limit, which all processes share (limit_accounts in
Postgres; migrations/0004_limits.sql is its side). A process leases a part of what is free, spends
it, and reports now and then: what was spent, what is kept, what is needed.

The promise, by the account's clock: what is spent in any stretch of a window never adds up to more
than the limit, over all processes. For everything that is spent is part of a lease; a lease counts
from before it can be spent until a window after its last moment, or after the moment at which it
was reported spent; and the account grants nothing beyond the limit. What gets lost on the way, a
process or an answer, counts as spent.
"""

from collections import OrderedDict
from dataclasses import dataclass

from .allowance import Allowance, Kind, Rule
from .meter import CONCURRENT_RETRY_SECONDS, Ask, Meter, Refusal
from .window import SLICES

MAX_METERS = 100_000
LEASE_SECONDS = 10.0
"""How long a lease can be spent after the last report of it."""
ROUND_SECONDS = 2.0
"""What is spent is reported so much later at most."""
IDLE_SECONDS = 30.0
"""A user who asks nothing for so long has no lease."""
GRACE_SECONDS = 0.3
"""How long somebody waits for what another process has in stock, and is asked to give back."""
AGAIN_SECONDS = 0.04
SOON_SECONDS = 0.1
RECALL_SECONDS = 3.0
REFUSED_SECONDS = 0.1
"""A refusal holds for so long without asking again, so that refusing costs next to nothing."""
SHARES = {Kind.REQUESTS: 4, Kind.TOKENS: 4, Kind.CONCURRENT: 4, Kind.DAY: 64, Kind.MONTH: 64}
"""A lease is this part of what is free, or what is needed. For budgets it is small: what a process
leaves behind when it is killed is gone until the day or the month is over."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the account is told about one meter. The names are those of settle_limits."""

    meter: Meter
    rule: Rule
    at: float
    bucket: int
    leased: int
    unused: int
    spent: int
    age_seconds: float
    held: int
    kept: int
    needed: int
    share: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the account answers."""

    granted: int
    free: int
    """Beside all leases; less than nothing after spending that nobody could be asked about."""
    bucket: int
    valid_seconds: float
    idle: int
    """What other processes have in stock."""
    outs: tuple[tuple[float, int], ...] = ()
    """When what is counted is no more, and how much; only when less was granted than needed."""


class Ledger:
    """The meters of one process."""

    def __init__(self, *, max_meters: int = MAX_METERS) -> None:
        self._max_meters = max_meters
        self._meters: OrderedDict[tuple[int, Kind], Meter] = OrderedDict()
        self._due: dict[Meter, None] = {}
        self._again: dict[Meter, float] = {}
        self._rounds: OrderedDict[Meter, float] = OrderedDict()
        """Meters with something to report, and when they last did; the oldest first."""
        self._closing = False

    def __len__(self) -> int:
        return len(self._meters)

    @property
    def due(self) -> bool:
        """Whether there is something to report before the next round."""
        return bool(self._due or self._again)

    def meter(self, user: int, rule: Rule) -> Meter:
        """The user's meter for this kind, under this rule from now on."""
        key = (user, rule.kind)
        meter = self._meters.get(key)
        if meter is None:
            meter = self._meters[key] = Meter(user, rule)
            self._forget_oldest()
            return meter
        self._meters.move_to_end(key)
        if meter.rule is not rule and meter.rule != rule:
            meter.change(rule)
            self._due[meter] = None
        return meter

    # -- requests ------------------------------------------------------------------------------

    def take(self, meter: Meter, amount: int, now: float) -> bool:
        """Hold ``amount`` of what is leased already, when it is enough."""
        if not meter.take(amount, now):
            return False
        if meter.low() and not meter.reporting and not meter.scarce(now):
            self._due[meter] = None
        return True

    def take_alone(self, meter: Meter, amount: int, now: float) -> Allowance:
        """Decide without the account, because it can't be asked."""
        answer = meter.take_alone(amount, now)
        if answer.allowed:
            self._rounds.setdefault(meter, now)
        return answer

    def ask(self, meter: Meter, amount: int, now: float) -> Ask:
        """Wait for the account's word: ``apply`` or ``give_up`` has it."""
        ask = Ask(meter, amount, now)
        meter.waiting.append(ask)
        self._due[meter] = None
        return ask

    def withdraw(self, ask: Ask, now: float) -> None:
        """Whoever asked is gone."""
        if ask.answer is None:
            ask.meter.waiting.remove(ask)
        elif ask.answer.allowed:
            self.settle(ask.meter, ask.amount, 0, now)

    def settle(self, meter: Meter, reserved: int, used: int, now: float) -> None:
        """What a request held is over; ``used`` of it, or more, is spent."""
        meter.settle(reserved, used, now)
        if not meter.scarce(now):
            self._rounds.setdefault(meter, now)
        elif used < reserved and meter.left(now):
            # Somebody elsewhere may be waiting for the rest.
            self._due[meter] = None
        else:
            # The sooner it is known as spent, the sooner it is free again.
            self._again.setdefault(meter, now + SOON_SECONDS)

    def recall(self, user: int, kind: str, now: float) -> None:
        """Another process is in need of what may be idle here."""
        meter = self._meters.get((user, Kind(kind)))
        if meter is not None:
            meter.recalled_until = now + RECALL_SECONDS
            if meter.left(now):
                self._due[meter] = None

    # -- the account ---------------------------------------------------------------------------

    def wait_seconds(self, now: float) -> float:
        """Until there may be something to report."""
        if self._due:
            return 0.0
        until = [now + ROUND_SECONDS, *self._again.values()]
        if self._rounds:
            until.append(next(iter(self._rounds.values())) + ROUND_SECONDS)
        return max(0.0, min(until) - now)

    def close(self) -> None:
        """From now on leases are given back."""
        self._closing = True
        self._due.update(dict.fromkeys([*self._rounds, *self._again]))

    def reports(self, now: float, most: int) -> list[Report]:
        """What there is to report; each is to be answered by ``apply`` or ``lose``."""
        for meter in [meter for meter, at in self._again.items() if at <= now]:
            del self._again[meter]
            self._due[meter] = None
        while self._rounds:
            meter, at = next(iter(self._rounds.items()))
            if at + ROUND_SECONDS > now:
                break
            self._rounds.popitem(last=False)
            if not self._is_quiet(meter, now):
                self._due[meter] = None
            elif meter.leased or meter.held:
                self._rounds[meter] = now
        reports: list[Report] = []
        while self._due and len(reports) < most:
            meter = next(iter(self._due))
            del self._due[meter]
            reports.append(self._report(meter, now))
        return reports

    def apply(self, report: Report, answer: Answer, now: float) -> list[Ask]:
        """The account has answered; who asked and knows now."""
        meter = report.meter
        meter.reporting = False
        meter.spent -= report.spent
        meter.leased = meter.recorded = report.held + report.kept + answer.granted
        meter.bucket = answer.bucket
        meter.until = report.at + answer.valid_seconds
        meter.unused = report.kept + max(0, answer.granted - report.needed)
        meter.free = answer.free
        meter.granted = answer.granted or meter.granted
        if meter.rule is not report.rule:
            meter.change(meter.rule)
            self._due[meter] = None
        if meter.leased or meter.held or meter.spent:
            self._rounds[meter] = now
            self._rounds.move_to_end(meter)
        return self._decide(meter, answer, now)

    def lose(self, report: Report) -> None:
        """Nobody knows whether the account has heard. What was kept counts there either way, and
        can be spent until it ends; what was spent is reported again."""
        meter = report.meter
        meter.reporting = False
        meter.bucket, meter.recorded, meter.unused = None, 0, 0
        self._rounds.setdefault(meter, report.at)
        if meter.waiting:
            self._due[meter] = None

    def give_up(self, now: float) -> list[Ask]:
        """The account can't be asked: decide for all who wait."""
        decided = []
        for meter in [*self._due, *self._again]:
            while meter.waiting:
                ask = meter.waiting.popleft()
                ask.answer = self.take_alone(meter, ask.amount, now)
                decided.append(ask)
            self._rounds.setdefault(meter, now)
        self._due.clear()
        self._again.clear()
        return decided

    def _report(self, meter: Meter, now: float) -> Report:
        rule = meter.rule
        if rule.window:
            # What has left the window was never anybody's concern.
            meter.spent = min(meter.spent, meter.here.used(now))
        elif meter.spent_at < meter.until <= now:
            # It is of the day or the month that is over, and would be counted in the next one.
            meter.spent = 0
        left = meter.left(now) if meter.bucket is not None else 0
        wanted = sum(ask.amount for ask in meter.waiting)
        idle = not wanted and meter.used_at + IDLE_SECONDS <= now
        stock = not (self._closing or idle or meter.scarce(now))
        kept = left if stock or wanted else 0
        report = Report(
            meter=meter,
            rule=rule,
            at=now,
            bucket=meter.bucket or 0,
            leased=meter.recorded,
            unused=meter.unused,
            spent=meter.spent,
            age_seconds=max(0.0, now - meter.spent_at) if meter.spent else 0.0,
            held=meter.held,
            kept=kept,
            needed=max(0, wanted - kept),
            share=SHARES[rule.kind] if stock and (wanted or meter.low()) else 0,
        )
        for ask in meter.waiting:
            ask.reported = True
        # What is given back can't be spent any more from here on.
        meter.leased = min(meter.leased, meter.spent + meter.held + kept)
        meter.reporting = True
        self._rounds.pop(meter, None)
        return report

    def _decide(self, meter: Meter, answer: Answer, now: float) -> list[Ask]:
        decided: list[Ask] = []
        undecided: list[Ask] = []
        left = meter.left(now)
        for ask in meter.waiting:
            if ask.amount <= left:
                left -= ask.amount
                meter.held += ask.amount
                meter.used_at = now
                ask.answer = meter.allowance(now)
            elif not ask.reported:
                self._due[meter] = None
            elif now < ask.at + _patience(meter.rule, answer):
                ask.reported = False
                self._again[meter] = now + AGAIN_SECONDS
            else:
                meter.refused = _refusal(meter, ask.amount, answer, now)
                ask.answer = meter.refused.allowance(meter.rule, now)
            (undecided if ask.answer is None else decided).append(ask)
        meter.waiting.clear()
        meter.waiting.extend(undecided)
        if meter.left(now) and meter.scarce(now):
            self._due[meter] = None
        return decided

    def _is_quiet(self, meter: Meter, now: float) -> bool:
        """Whether a report can wait: it would say nothing new, and the lease holds for a while."""
        if meter.spent:
            return False
        if not (meter.held or meter.leased):
            return True
        if meter.left(now) and now >= meter.used_at + IDLE_SECONDS:
            return False
        return now < meter.until - LEASE_SECONDS / 2

    def _forget_oldest(self) -> None:
        """What a forgotten meter has leased counts as spent."""
        while len(self._meters) > self._max_meters:
            meter = next((m for m in self._meters.values() if not m.in_use), None)
            if meter is None:
                return
            del self._meters[meter.user, meter.rule.kind]
            self._due.pop(meter, None)
            self._again.pop(meter, None)
            self._rounds.pop(meter, None)


def _patience(rule: Rule, answer: Answer) -> float:
    """How long to ask again before somebody is refused."""
    if answer.idle > 0:
        return GRACE_SECONDS
    # A client that has its answer from one host may be at the next before the first has said so.
    return AGAIN_SECONDS if rule.kind is Kind.CONCURRENT else 0.0


def _refusal(meter: Meter, amount: int, answer: Answer, now: float) -> Refusal:
    rule = meter.rule
    remaining = max(0, answer.free + meter.left(now))
    outs = answer.outs
    if rule.window:
        # A lease is taken for spent: it will be by then, or given back before.
        longest = rule.window * (1 + 1 / SLICES)
        outs = tuple((min(out, longest), counted) for out, counted in outs)
    reset = max((out for out, _ in outs), default=0.0)
    retry: float | None = reset
    if amount > rule.limit:
        retry = None
    elif rule.kind is Kind.CONCURRENT:
        retry = CONCURRENT_RETRY_SECONDS
    else:
        short = amount - answer.free - meter.left(now)
        for out, counted in outs:
            short -= counted
            if short <= 0:
                retry = out
                break
    holds = REFUSED_SECONDS if retry is None else min(retry, REFUSED_SECONDS)
    retry_at = None if retry is None else now + retry
    return Refusal(amount, now + holds, remaining, retry_at, now + reset)
