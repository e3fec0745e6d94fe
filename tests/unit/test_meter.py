"""One limit in one process: who may take of a lease, and budgets while the account is away."""

from math import inf

import pytest

from llamakit_proxy.allowance import Kind, Rule
from llamakit_proxy.ledger import Answer, Ledger
from llamakit_proxy.meter import BUDGET_RETRY_SECONDS, Meter

NOW = 1000.0
END = 50_000.0
"""When the day or the month is over."""
BUDGETS = pytest.mark.parametrize("kind", [Kind.DAY, Kind.MONTH])


def leased(rule: Rule, granted: int, free: int) -> tuple[Ledger, Meter]:
    """A process that has asked the account once and was granted so much."""
    ledger = Ledger()
    meter = ledger.meter(1, rule)
    ask = ledger.ask(meter, 1, NOW)
    [report] = ledger.reports(NOW, 10)
    answer = Answer(granted=granted, free=free, bucket=1, valid_seconds=END - NOW, idle=0)
    assert ledger.apply(report, answer, NOW) == [ask]
    ledger.settle(meter, 1, 0, NOW)
    return ledger, meter


def alone(ledger: Ledger, meter: Meter, now: float, times: int) -> int:
    """Requests that each use one up, decided without the account; how many were let in."""
    allowed = 0
    for _ in range(times):
        if ledger.take_alone(meter, 1, now).allowed:
            ledger.settle(meter, 1, 1, now)
            allowed += 1
    return allowed


def test_a_newcomer_does_not_overtake_who_waits_for_more_than_is_left() -> None:
    ledger, meter = leased(Rule(Kind.TOKENS, 100, 60), granted=5, free=95)
    assert meter.left(NOW) == 5
    waiting = ledger.ask(meter, 10, NOW)
    assert not ledger.take(meter, 1, NOW)
    ledger.withdraw(waiting, NOW)
    assert ledger.take(meter, 1, NOW)


@BUDGETS
def test_alone_a_process_gives_what_of_the_budget_was_free(kind: Kind) -> None:
    ledger, meter = leased(Rule(kind, 100), granted=10, free=25)
    assert ledger.take(meter, 4, NOW)
    assert alone(ledger, meter, NOW, 50) == 31
    refused = ledger.take_alone(meter, 1, NOW)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.retry_seconds == BUDGET_RETRY_SECONDS
    almost = ledger.take_alone(meter, 1, END - 60)
    assert (almost.allowed, almost.retry_seconds) == (False, 60)
    # What was held and not used is there again.
    ledger.settle(meter, 4, 0, NOW)
    assert alone(ledger, meter, NOW, 50) == 4


@BUDGETS
def test_a_budget_begins_anew_while_the_account_is_away(kind: Kind) -> None:
    ledger, meter = leased(Rule(kind, 100), granted=10, free=0)
    assert alone(ledger, meter, END - 1, 50) == 10
    assert alone(ledger, meter, END, 150) == 100
    assert not ledger.take_alone(meter, 1, END + 1).allowed


@BUDGETS
def test_a_budget_of_which_nothing_is_known_yet_is_whole(kind: Kind) -> None:
    ledger = Ledger()
    meter = ledger.meter(1, Rule(kind, 100))
    assert meter.until == -inf
    assert alone(ledger, meter, NOW, 150) == 100
    error = ledger.take_alone(meter, 1, NOW).refusal(1)
    assert (error.status, error.headers["Retry-After"]) == (429, str(int(BUDGET_RETRY_SECONDS)))


@BUDGETS
def test_what_was_spent_of_a_budget_that_is_over_is_not_reported_to_the_next(kind: Kind) -> None:
    for spent_at, reported in ((END - 1, 0), (END + 1, 8)):
        ledger, meter = leased(Rule(kind, 100), granted=10, free=25)
        assert ledger.take(meter, 8, END - 2)
        ledger.settle(meter, 8, 8, spent_at)
        (report,) = ledger.reports(END + 5, 1)
        assert report.spent == reported
