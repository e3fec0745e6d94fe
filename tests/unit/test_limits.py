"""What is counted in a window, and how limits are told to clients."""

from math import ceil
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy.allowance import Allowance, Kind, Rule, duration
from llamakit_proxy.identity import Identity
from llamakit_proxy.limits import prompt_estimate, reservation, rules_of
from llamakit_proxy.settings import from_values
from llamakit_proxy.window import SLICES, Window

SIXTY = Rule(Kind.REQUESTS, 60, 60)


@given(
    length=st.sampled_from([1.0, 7.0, 60.0]),
    spent=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 9)), min_size=1, max_size=200),
)
def test_a_window_never_forgets_too_early_and_hardly_too_late(
    length: float, spent: list[tuple[float, int]]
) -> None:
    window = Window(length)
    now, past = 1000.0, list[tuple[float, int]]()
    for gap, amount in spent:
        now += gap
        used = window.used(now)
        assert used >= sum(spent for at, spent in past if at > now - length)
        late = length * (1 + 1 / SLICES) + 1e-6
        assert used <= sum(spent for at, spent in past if at > now - late)
        if used:
            part = ceil(used / 2)
            later = now + window.until_free(part, now) + 1e-6
            assert sum(spent for at, spent in past if at > later - length) <= used - part
            assert window.until_free(part, now) <= window.until_empty(now)
        window.add(amount, now)
        past.append((now, amount))


def test_a_window_of_another_length_keeps_what_was_spent() -> None:
    window = Window(10)
    window.add(3, 100.0)
    window.length = 60
    assert window.used(150.0) == 3
    assert window.used(161.0) == 0


def test_headers() -> None:
    assert Allowance(SIXTY, True, 58).headers() == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"58"),
        (b"x-ratelimit-reset-requests", b"1m1s"),
    ]
    assert Allowance(Rule(Kind.TOKENS, 9, 60), False, 0, 2.0).headers()[2][1] == b"2s"
    for kind in (Kind.CONCURRENT, Kind.DAY, Kind.MONTH):
        assert Allowance(Rule(kind, 5), True, 1).headers() == []


def test_refusals() -> None:
    for rule, code, kind in (
        (SIXTY, "rate_limit_exceeded", "requests"),
        (Rule(Kind.CONCURRENT, 5), "rate_limit_exceeded", "requests"),
        (Rule(Kind.TOKENS, 100, 60), "rate_limit_exceeded", "tokens"),
        (Rule(Kind.DAY, 100), "insufficient_quota", "insufficient_quota"),
        (Rule(Kind.MONTH, 100), "insufficient_quota", "insufficient_quota"),
    ):
        error = Allowance(rule, False, 0, 50.0, 41.2).refusal(70)
        assert (error.status, error.code, error.type) == (429, code, kind)
        assert error.headers["Retry-After"] == "42"
        # Clients that try again by themselves do it in vain when a day has to pass.
        assert ("x-should-retry" in error.headers) == rule.kind.calendar
        assert "42s" in error.message
        never = Allowance(rule, False, 0, 50.0, None).refusal(1000)
        assert "Retry-After" not in never.headers
        assert never.headers["x-should-retry"] == "false"


@given(
    size=st.integers(0, 300), choices=st.integers(1, 8), most=st.integers(1, 120),
    n_ctx=st.integers(1, 100),
)  # fmt: skip
def test_a_reservation_is_the_most_that_a_request_may_take(
    size: int, choices: int, most: int, n_ctx: int
) -> None:
    prompt, answers = reservation(size, choices, most, n_ctx)
    possible = range(min(prompt_estimate(size), n_ctx) + 1)
    assert prompt == possible[-1]
    assert prompt + answers == max(real + choices * min(most, n_ctx - real) for real in possible)


def test_durations() -> None:
    written = {0: "0ms", 0.0125: "13ms", 1: "1s", 59.5: "1m0s", 360: "6m0s", 3600: "1h0m0s"}
    assert {seconds: duration(seconds) for seconds in written} == written


def test_rules() -> None:
    settings = from_values(
        {
            "LLAMA_PROXY_ROUTES": "r",
            "LLAMAKIT_SECRETS_DIR": "s",
            "LLAMA_PROXY_TOKEN_LIMIT": "1000",
            "LLAMA_PROXY_MAX_CONCURRENT": "3",
        }
    )
    user: dict[str, Any] = {"user_id": 1, "username": "a", "key_id": "k", "allowed_models": None}
    nothing: dict[str, Any] = {"rate_limit": None, "rate_window_seconds": None, "expires_at": None}
    default = rules_of(Identity(**user, **nothing), settings)
    assert default.requests == SIXTY
    assert default.concurrent == Rule(Kind.CONCURRENT, 3)
    assert default.tokens == (Rule(Kind.TOKENS, 1000, 60),)
    own: dict[str, Any] = {
        "token_limit": 0,
        "max_concurrent": 0,
        "day_budget": 7,
        "month_budget": 8,
    }
    rules = rules_of(Identity(**user, **{**nothing, "rate_limit": 0}, **own), settings)
    assert rules.requests is None
    assert rules.concurrent is None
    assert rules.tokens == (Rule(Kind.DAY, 7), Rule(Kind.MONTH, 8))


def test_a_prompt_is_a_token_for_three_bytes() -> None:
    assert [prompt_estimate(size) for size in (0, 1, 3, 4)] == [0, 1, 1, 2]
