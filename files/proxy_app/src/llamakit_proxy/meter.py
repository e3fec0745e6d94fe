"""One limit of one user as this process sees it: what it leased, what it spent, who waits."""

from collections import deque
from dataclasses import dataclass, field
from math import inf

from .allowance import Allowance, Headers, Kind, Rule
from .window import Window

SCARCE = 4
"""Less than this part of a limit being free means that nobody keeps what they have no use for."""
CONCURRENT_RETRY_SECONDS = 1.0
BUDGET_RETRY_SECONDS = 3600.0
"""After which to ask again for a budget whose end is not known."""


@dataclass(eq=False, slots=True)
class Ask:
    """A request that waits for the account's word."""

    meter: "Meter"
    amount: int
    at: float
    answer: Allowance | None = None
    reported: bool = False
    """Whether the account has been asked for it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What need not be asked again for a moment."""

    amount: int
    until: float
    remaining: int
    retry_at: float | None
    reset_at: float

    def allowance(self, rule: Rule, now: float) -> Allowance:
        """As an answer at ``now``."""
        retry = None if self.retry_at is None else self.retry_at - now
        return Allowance(rule, False, self.remaining, self.reset_at - now, retry)


@dataclass(eq=False, slots=True)
class Meter:
    """All amounts are units of the rule's kind, all times those of one clock that never goes back.

    Of what is leased, ``held`` is in use by requests that run and ``spent`` was used up since the
    last report; the rest is ``left``. Both may be more than what is leased: what was spent while
    nobody could be asked is reported later, and counts then.
    """

    user: int
    rule: Rule
    held: int = 0
    spent: int = 0
    spent_at: float = -inf
    used_at: float = -inf
    leased: int = 0
    until: float = -inf
    """The lease may be spent before that, and not after."""
    bucket: int | None = None
    """The account's name for the lease; None when it has none, or when that is not known."""
    recorded: int = 0
    """What the account has under that name."""
    unused: int = 0
    """How much of it the account takes for idle."""
    free: int | None = None
    """What the account had left beside all leases, when it was asked last; None before that."""
    granted: int = 0
    recalled_until: float = -inf
    """Others are in need; until then nothing is kept in stock."""
    reporting: bool = False
    waiting: deque[Ask] = field(default_factory=deque, repr=False)
    refused: Refusal | None = None
    here: Window = field(init=False)
    """What this process spent, whoever granted it."""
    headers: Headers = field(init=False)

    def __post_init__(self) -> None:
        self.here = Window(self.rule.window)
        self.headers = Headers(self.rule)

    @property
    def in_use(self) -> bool:
        """Whether a request or a report depends on it."""
        return bool(self.held or self.waiting or self.reporting)

    def left(self, now: float) -> int:
        """What can be spent without asking."""
        return max(0, self.leased - self.held - self.spent) if now < self.until else 0

    def scarce(self, now: float) -> bool:
        """Whether to keep nothing in stock."""
        free = self.free
        return free is not None and (now < self.recalled_until or free * SCARCE < self.rule.limit)

    def low(self) -> bool:
        """Whether it is time to ask for more before somebody has to wait."""
        return 2 * (self.leased - self.held - self.spent) < self.granted

    def take(self, amount: int, now: float) -> bool:
        """Hold ``amount``, when there is so much left."""
        if now >= self.until or self.leased - self.held - self.spent < amount or self.waiting:
            return False
        self.held += amount
        self.used_at = now
        return True

    def settle(self, reserved: int, used: int, now: float) -> None:
        """What was held is over; ``used`` of it, or more, is spent."""
        self.held -= reserved
        if used and self.rule.kind is not Kind.CONCURRENT:
            self.spent += used
            self.spent_at = now
            if self.rule.window:
                self.here.add(used, now)

    def change(self, rule: Rule) -> None:
        """Another limit from now on: the lease was of the old one."""
        self.rule = rule
        self.here.length = rule.window
        self.headers = Headers(rule)
        self.until = -inf
        self.refused = None

    # -- answers -------------------------------------------------------------------------------

    def allowance(self, now: float) -> Allowance:
        """The yes to one who has just taken something."""
        return Allowance(self.rule, True, self.remaining(now))

    def remaining(self, now: float) -> int:
        """What nobody has taken yet, as far as is known here."""
        return max(0, (self.free or 0) + self.left(now))

    def known_refusal(self, amount: int, now: float) -> Allowance | None:
        """A no that was given a moment ago and still holds."""
        known = self.refused
        if known is None or now >= known.until or amount < known.amount:
            return None
        return known.allowance(self.rule, now)

    def take_alone(self, amount: int, now: float) -> Allowance:
        """Decide without the account, as if this process were the only one."""
        rule = self.rule
        if rule.window:
            used = self.here.used(now) + self.held
        elif rule.kind is Kind.CONCURRENT:
            used = self.held
        else:
            used = self._used_of_budget(now)
        if used + amount <= rule.limit:
            self.held += amount
            self.used_at = now
            return Allowance(rule, True, rule.limit - used - amount)
        remaining = max(0, rule.limit - used)
        if amount > rule.limit:
            return Allowance(rule, False, remaining, 0.0, None)
        if rule.kind is Kind.CONCURRENT:
            return Allowance(rule, False, remaining, 0.0, CONCURRENT_RETRY_SECONDS)
        if rule.kind.calendar:
            left = self.until - now if self.until > -inf else inf
            retry = min(left, BUDGET_RETRY_SECONDS)
            return Allowance(rule, False, remaining, retry, retry)
        retry = self.here.until_free(used + amount - rule.limit, now)
        return Allowance(rule, False, remaining, self.here.until_empty(now), retry)

    def _used_of_budget(self, now: float) -> int:
        if now >= self.until > -inf:
            # The day or the month is over, and with it all that was known.
            self.free, self.leased, self.spent = self.rule.limit, 0, 0
            self.bucket, self.until = None, inf
        free = self.rule.limit if self.free is None else self.free
        return self.rule.limit - (free + self.leased - self.held - self.spent)
