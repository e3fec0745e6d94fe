"""The rate limiter's promise: never more than the limit in any stretch of one window."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy.limits import SLICES, RateLimiter, duration


@given(
    limit=st.integers(1, 20),
    window=st.sampled_from([1.0, 7.0, 60.0]),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_never_too_many_and_never_too_strict(limit: int, window: float, gaps: list[float]) -> None:
    limiter = RateLimiter()
    now, allowed = 1000.0, list[float]()
    for gap in gaps:
        now += gap
        answer = limiter.ask(1, limit, window, now)
        recent = [at for at in allowed if at > now - window]
        if answer.allowed:
            assert len(recent) < limit
            allowed.append(now)
        else:
            # One slice of the window is how much later a place may become free.
            assert len([at for at in allowed if at > now - window * (1 + 1 / SLICES)]) >= limit
            later = now + answer.retry_seconds + 1e-6
            assert RateLimiterCopy(limiter).ask(1, limit, window, later).allowed
        assert 0 <= answer.remaining < limit


class RateLimiterCopy(RateLimiter):
    """A limiter with another's state, to ask what would be."""

    def __init__(self, other: RateLimiter) -> None:
        from copy import deepcopy

        self.__dict__.update(deepcopy(other.__dict__))


def test_users_do_not_share_and_none_is_no_limit() -> None:
    limiter = RateLimiter()
    assert limiter.ask(1, 1, 60, 0).allowed
    assert not limiter.ask(1, 1, 60, 1).allowed
    assert limiter.ask(2, 1, 60, 1).allowed
    assert all(limiter.ask(3, 0, 60, 1).allowed for _ in range(1000))
    assert limiter.ask(3, 0, 60, 1).headers() == []


def test_a_lower_limit_holds_at_once() -> None:
    limiter = RateLimiter()
    for second in range(10):
        assert limiter.ask(1, 10, 60, float(second)).allowed
    answer = limiter.ask(1, 2, 60, 20.0)
    assert not answer.allowed
    assert 48 <= answer.retry_seconds <= 50
    assert not limiter.ask(1, 2, 60, 20.0 + answer.retry_seconds - 2).allowed
    assert limiter.ask(1, 2, 60, 20.0 + answer.retry_seconds).allowed


def test_memory_is_bounded() -> None:
    limiter = RateLimiter(max_users=100)
    for user in range(1000):
        limiter.ask(user, 5, 60, float(user))
    assert len(limiter) == 100


def test_refusal() -> None:
    limiter = RateLimiter()
    limiter.ask(1, 1, 60, 0.0)
    refusal = limiter.ask(1, 1, 60, 59.9).refusal(60)
    assert refusal.status == 429
    assert int(refusal.headers["Retry-After"]) == ceil(60 + 60 / SLICES - 59.9)


def test_durations() -> None:
    written = {0: "0ms", 0.0125: "13ms", 1: "1s", 59.5: "1m0s", 360: "6m0s", 3600: "1h0m0s"}
    assert {seconds: duration(seconds) for seconds in written} == written
