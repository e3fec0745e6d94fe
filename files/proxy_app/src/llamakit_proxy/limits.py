"""How often a user may ask: requests per sliding window, exact within this process."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from math import ceil

from .errors import ApiError

SLICES = 64
"""A window is counted in this many slices: the memory for one user, and how much later than
strictly necessary (one slice) a request may count as out of the window. Never earlier."""
MAX_USERS = 100_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a user has after asking. ``limit`` 0 means there is no limit."""

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: float
    """Until the whole limit is free again."""
    retry_seconds: float
    """Until the next request is allowed; 0 when one is."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's rate limit headers; none without a limit."""
        if not self.limit:
            return []
        return [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % self.remaining),
            (b"x-ratelimit-reset-requests", duration(self.reset_seconds).encode()),
        ]

    def refusal(self, window: float) -> ApiError:
        """The 429 for a request that was not allowed."""
        wait = max(1, ceil(self.retry_seconds))
        return ApiError(
            429,
            "rate_limit_exceeded",
            f"Rate limit reached: {self.limit} requests per {duration(window)}. "
            f"Try again in {duration(wait)}.",
            type="requests",
            headers={"Retry-After": str(wait)},
        )


UNLIMITED = Allowance(True, 0, 0, 0.0, 0.0)


class _Window:
    __slots__ = ("length", "slices", "used")

    def __init__(self, length: float) -> None:
        self.length = length
        self.used = 0
        self.slices: deque[list[float]] = deque()
        """(start of the slice, requests in it), oldest first."""

    def expire(self, now: float) -> None:
        edge = now - self.length
        width = self.length / SLICES
        while self.slices and self.slices[0][0] + width <= edge:
            self.used -= int(self.slices.popleft()[1])


class RateLimiter:
    """Sliding windows per user. In no stretch of ``window`` seconds are there more than ``limit``
    requests; refused requests do not count.

    Later limiters (tokens, or shared between processes) can stand in its place: callers know
    ``ask`` alone.
    """

    def __init__(self, *, max_users: int = MAX_USERS) -> None:
        self._max_users = max_users
        self._windows: OrderedDict[int, _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def ask(self, user: int, limit: int, window: float, now: float) -> Allowance:
        """Count one request of ``user`` at ``now`` (seconds of a clock that never goes back)."""
        if limit <= 0:
            return UNLIMITED
        state = self._windows.get(user)
        if state is None or state.length != window:
            state = self._windows[user] = _Window(window)
            self._forget_oldest()
        self._windows.move_to_end(user)
        state.expire(now)
        width = window / SLICES
        if state.used >= limit:
            return Allowance(
                allowed=False,
                limit=limit,
                remaining=0,
                reset_seconds=state.slices[-1][0] + width + window - now,
                retry_seconds=self._until_free(state, limit, width, now),
            )
        start = now - now % width
        if state.slices and state.slices[-1][0] >= start:
            state.slices[-1][1] += 1
        else:
            state.slices.append([start, 1])
        state.used += 1
        return Allowance(
            allowed=True,
            limit=limit,
            remaining=limit - state.used,
            reset_seconds=state.slices[-1][0] + width + window - now,
            retry_seconds=0.0,
        )

    @staticmethod
    def _until_free(state: _Window, limit: int, width: float, now: float) -> float:
        """When enough of the oldest slices have left: several, after a limit was lowered."""
        excess = state.used - limit + 1
        for start, count in state.slices:
            excess -= int(count)
            if excess <= 0:
                return start + width + state.length - now
        return state.length

    def _forget_oldest(self) -> None:
        while len(self._windows) > self._max_users:
            self._windows.popitem(last=False)


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
