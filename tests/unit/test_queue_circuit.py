"""When a backend is left alone, and when it is tried again."""

import pytest

from llamakit_proxy.circuit import (
    FAILURES,
    LONGEST_SECONDS,
    LONGEST_STALLED_SECONDS,
    Circuit,
    Failure,
    State,
)


class Clocked:
    """A circuit whose backend is asked again and again, each request begun after the last ended."""

    def __init__(self) -> None:
        self.circuit = Circuit()
        self.now = 0.0

    def fail(self, failure: Failure, user: int = 1, *, sure: bool = False) -> bool:
        since, self.now = self.now + 1, self.now + 2
        return self.circuit.fail(failure, user=user, since=since, now=self.now, sure=sure)


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


@pytest.mark.parametrize("failure", [Failure.UNREACHABLE, Failure.BROKEN])
def test_failures_in_a_row_open_it(clocked: Clocked, failure: Failure) -> None:
    opened = [clocked.fail(failure) for _ in range(FAILURES)]
    assert opened == [False] * (FAILURES - 1) + [True]
    assert clocked.circuit.room(4) == 0


def test_an_answer_in_between_starts_the_count_anew(clocked: Clocked) -> None:
    for _ in range(5):
        for _ in range(FAILURES - 1):
            assert not clocked.fail(Failure.BROKEN)
        assert not clocked.circuit.begin()
        clocked.circuit.finish()


def test_an_answer_that_only_begins_is_no_proof(clocked: Clocked) -> None:
    """One that breaks off in the middle each time is a bad one, too."""
    for _ in range(FAILURES - 1):
        clocked.circuit.begin()
        assert not clocked.fail(Failure.BROKEN)
    clocked.circuit.begin()
    assert clocked.fail(Failure.BROKEN)


def test_one_crash_is_one_failure() -> None:
    circuit = Circuit()
    for _ in range(10):
        assert not circuit.fail(Failure.BROKEN, user=1, since=1.0, now=5.0)
    assert not circuit.fail(Failure.BROKEN, user=1, since=6.0, now=7.0)
    assert circuit.fail(Failure.BROKEN, user=1, since=8.0, now=9.0)


def test_two_stalls_are_enough(clocked: Clocked) -> None:
    assert not clocked.fail(Failure.STALLED)
    assert clocked.fail(Failure.STALLED)


def test_errors_for_one_user_alone_do_not_open_it(clocked: Clocked) -> None:
    for _ in range(20):
        assert not clocked.fail(Failure.REFUSED, user=1)
    assert clocked.fail(Failure.REFUSED, user=2)


def test_one_users_errors_do_not_keep_it_open_either(clocked: Clocked) -> None:
    for user in (1, 2, 3):
        clocked.fail(Failure.REFUSED, user)
    clocked.circuit.half_open()
    for _ in range(5):
        assert not clocked.fail(Failure.REFUSED, user=1)
    assert clocked.circuit.room(4) == 1
    assert clocked.circuit.begin()


def test_when_sure_one_is_enough(clocked: Clocked) -> None:
    assert clocked.fail(Failure.UNREACHABLE, sure=True)


def test_one_request_tries_it_and_brings_it_back(clocked: Clocked) -> None:
    clocked.fail(Failure.UNREACHABLE, sure=True)
    clocked.circuit.half_open()
    assert clocked.circuit.room(4) == 1
    assert clocked.circuit.begin()
    assert clocked.circuit.room(4) == 4
    assert clocked.circuit.state is State.CLOSED


@pytest.mark.parametrize(
    ("failure", "longest"),
    [(Failure.UNREACHABLE, LONGEST_SECONDS), (Failure.STALLED, LONGEST_STALLED_SECONDS)],
)
def test_the_pause_grows_up_to_a_bound(clocked: Clocked, failure: Failure, longest: float) -> None:
    pauses = []
    clocked.fail(failure, sure=True)
    for _ in range(2000):
        pauses.append(clocked.circuit.seconds)
        clocked.circuit.half_open()
        assert clocked.fail(failure)
    assert pauses[:3] == [1, 2, 4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == longest
    clocked.circuit.begin()
    clocked.circuit.finish()
    clocked.fail(failure, sure=True)
    assert clocked.circuit.seconds == 1


def test_what_fails_while_it_is_open_says_nothing_new(clocked: Clocked) -> None:
    clocked.fail(Failure.UNREACHABLE, sure=True)
    assert not clocked.fail(Failure.BROKEN, sure=True)
    assert clocked.circuit.seconds == 1
