"""What a user may use, what is left of it, and how that is said to a client."""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from .errors import ApiError
from .window import SLICES

Header = tuple[bytes, bytes]


class Kind(StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    """In a sliding window."""
    TOKENS = "tokens"
    """In a sliding window."""
    CONCURRENT = "concurrent"
    """Requests at a time."""
    DAY = "day"
    """Tokens in a UTC day."""
    MONTH = "month"
    """Tokens in a UTC month."""

    @property
    def calendar(self) -> bool:
        """Whether it begins anew at a moment of the calendar."""
        return self in (Kind.DAY, Kind.MONTH)


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit of one user, at least 1. ``window`` is seconds, 0 for a kind without a window."""

    kind: Kind
    limit: int
    window: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """The answer to one who asks for some of what a rule limits."""

    rule: Rule
    allowed: bool
    remaining: int
    reset_seconds: float | None = None
    """Until the whole limit is free again; None when something was counted now."""
    retry_seconds: float | None = 0.0
    """Until the same can be asked again; None when it is more than there ever is."""

    def headers(self) -> list[Header]:
        """OpenAI's rate limit headers; none for what OpenAI has none for."""
        return Headers(self.rule).of(self.remaining, self.reset_seconds)

    def refusal(self, amount: int) -> ApiError:
        """The 429 for a request that asked for ``amount`` and was not allowed."""
        headers = {}
        if self.retry_seconds is None:
            then = "That is more than there ever is: lower max_tokens, or send less."
        else:
            wait = max(1, ceil(self.retry_seconds))
            then = f"Try again in {duration(wait)}."
            headers["Retry-After"] = str(wait)
        if self.retry_seconds is None or self.rule.kind.calendar:
            # Clients that try again by themselves would do it in vain.
            headers["x-should-retry"] = "false"
        message = f"{self._reached(amount)} {then}"
        if self.rule.kind.calendar:
            return ApiError(
                429, "insufficient_quota", message, type="insufficient_quota", headers=headers
            )
        what = "tokens" if self.rule.kind is Kind.TOKENS else "requests"
        return ApiError(429, "rate_limit_exceeded", message, type=what, headers=headers)

    def _reached(self, amount: int) -> str:
        rule = self.rule
        if rule.kind is Kind.REQUESTS:
            return f"Rate limit reached: {rule.limit} requests per {duration(rule.window)}."
        if rule.kind is Kind.CONCURRENT:
            return f"You have {rule.limit} requests here already, as many as you may at once."
        span = rule.kind.value if rule.kind.calendar else duration(rule.window)
        what = "Budget used up" if rule.kind.calendar else "Rate limit reached"
        return (
            f"{what}: of {rule.limit} tokens per {span} {self.remaining} are left, and this "
            f"request may take {amount}."
        )


class Headers:
    """OpenAI's rate limit headers of one rule; all but one are the same for each request."""

    __slots__ = ("_limit", "_remaining", "_reset", "_usual")

    def __init__(self, rule: Rule) -> None:
        kind = rule.kind.encode()
        self._limit = (b"x-ratelimit-limit-" + kind, b"%d" % rule.limit) if rule.window else None
        self._remaining = b"x-ratelimit-remaining-" + kind
        self._reset = b"x-ratelimit-reset-" + kind
        # Whoever was let in was counted now, in a slice of the window that has just begun.
        self._usual = (self._reset, duration(rule.window * (1 + 1 / SLICES)).encode())

    def of(self, remaining: int, reset_seconds: float | None = None) -> list[Header]:
        """Without ``reset_seconds`` something is counted now."""
        if self._limit is None:
            return []
        reset = self._usual
        if reset_seconds is not None:
            reset = (self._reset, duration(reset_seconds).encode())
        return [self._limit, (self._remaining, b"%d" % remaining), reset]


def duration(seconds: float) -> str:
    """Seconds as OpenAI's headers write them: ``850ms``, ``1s``, ``6m0s``, ``1h0m0s``."""
    milliseconds = max(0, ceil(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole = ceil(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
