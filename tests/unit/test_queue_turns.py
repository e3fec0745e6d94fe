"""Whose turn it is."""

import itertools

import pytest

from llamakit_proxy.turns import MAX_WEIGHT, Ticket, Turns


def order(turns: Turns) -> list[int]:
    """The users, as they have their turns until nobody waits."""
    users = []
    while turns.depth:
        users.append(turns.first().user)
        turns.take()
    return users


def test_the_bound_holds_for_every_pair_of_weights() -> None:
    """A newcomer with one request against somebody who has many."""
    weights = (1, 2, 3, 7, 10, 33, 50, 99, MAX_WEIGHT)
    for light, heavy in itertools.product(weights, weights):
        turns = Turns()
        for _ in range(220):
            turns.add(Ticket(1, heavy))
        for _ in range(3):
            turns.first()
            turns.take()
        turns.add(Ticket(2, light))
        before = order(turns).index(2)
        assert heavy // light - 1 <= before <= heavy // light + 1


def test_a_share_is_the_weight() -> None:
    turns = Turns()
    for user, weight in ((1, 1), (2, 2), (3, 5)):
        for _ in range(100):
            turns.add(Ticket(user, weight))
    first = order(turns)[:80]
    assert [first.count(user) for user in (1, 2, 3)] == [10, 20, 50]


def test_giving_up_and_coming_back_keeps_no_place_of_its_own() -> None:
    turns = Turns()
    for _ in range(10):
        turns.add(Ticket(1))
    for _ in range(1000):
        ticket = Ticket(2)
        turns.add(ticket)
        turns.drop(ticket)
    assert turns.depth == 10
    turns.add(Ticket(2))
    users = order(turns)
    assert users.index(2) <= 1
    assert users.count(2) == 1


def test_what_is_kept_of_users_that_left_goes() -> None:
    turns = Turns()
    for user in range(1000):
        ticket = Ticket(user)
        turns.add(ticket)
        turns.drop(ticket)
    turns.add(Ticket(5000))
    assert order(turns) == [5000]
    assert not turns._lines
    assert not turns._due


def test_nobody_waits() -> None:
    with pytest.raises(IndexError):
        Turns().first()
