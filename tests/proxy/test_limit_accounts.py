"""The accounts of limits in Postgres, and the task that asks them."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from llamakit_proxy import users
from llamakit_proxy.allowance import Kind, Rule
from llamakit_proxy.database import Role, connect
from llamakit_proxy.lease_feed import LeaseFeed
from llamakit_proxy.ledger import Ledger
from llamakit_proxy.settings import Settings
from support.relay import relay_to


@pytest.fixture
def user(admin: psycopg.Connection) -> int:
    users.create(admin, "alice")
    return users.get(admin, "alice").id


@pytest.fixture
async def feed(settings: Settings) -> AsyncIterator[LeaseFeed]:
    feed = LeaseFeed(settings, Ledger())
    await feed.start()
    assert feed.connected
    yield feed
    await feed.close()


def report(user: int, **more: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(
        ("bucket", "leased", "unused", "spent", "age_ms", "held", "kept", "needed", "share"), 0
    )
    window = {"kind": "requests", "quota": 10, "window_ms": 60_000, "lease_ms": 10_000}
    return {"item": 0, "user_id": user, **nothing, **window, **more}


def settle(connection: psycopg.Connection, *reports: dict[str, Any]) -> list[dict[str, Any]]:
    cursor = connection.execute("SELECT * FROM settle_limits(%s)", (json.dumps(reports),))
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def now_ms() -> int:
    return int(time.time() * 1000)


def test_processes_at_the_same_moment_get_the_limit_and_no_more(
    settings: Settings, admin: psycopg.Connection, user: int
) -> None:
    users.create(admin, "bob")
    both = [user, users.get(admin, "bob").id]
    granted: list[int] = []

    def lease(order: int) -> None:
        with connect(settings, Role.PROXY) as connection:
            for _ in range(20):
                reports = [report(of, quota=50, needed=1) for of in both[::order]]
                granted.extend(answer["granted"] for answer in settle(connection, *reports))

    threads = [threading.Thread(target=lease, args=(order,)) for order in (1, -1) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 6 * 20 * 2  # nobody ran into a deadlock
    assert sum(granted) == 100


def test_a_lease_counts_until_a_window_after_its_end(admin: psycopg.Connection, user: int) -> None:
    (first,) = settle(admin, report(user, needed=4, window_ms=3000, lease_ms=100))
    assert (first["granted"], first["free"]) == (4, 6)
    assert 100 < first["valid_ms"] <= 350
    end = first["bucket"]
    time.sleep(max(0, end - now_ms()) / 1000)
    deadline = time.monotonic() + 10
    while (free := settle(admin, report(user, window_ms=3000))[0]["free"]) == 6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert free == 10
    assert now_ms() >= end + 3000


def test_what_is_given_back_is_free_and_what_is_spent_is_not(
    admin: psycopg.Connection, user: int
) -> None:
    (lease,) = settle(admin, report(user, needed=5))
    back = report(user, bucket=lease["bucket"], leased=5, spent=2, held=1)
    assert settle(admin, back)[0]["free"] == 7
    (short,) = settle(admin, report(user, needed=20))
    assert short["granted"] == 7
    assert sum(short["amounts"]) == 10
    assert short["outs"] == sorted(short["outs"])
    # What was spent while nobody could ask counts, although it is more than the limit.
    assert settle(admin, report(user, spent=30))[0]["free"] < -20


def test_a_clock_that_was_wrong_is_forgotten_soon(admin: psycopg.Connection, user: int) -> None:
    admin.execute(
        "INSERT INTO limit_accounts VALUES (%s, 'requests', %s, '{4}', '{0}')",
        (user, [now_ms() + 86_400_000]),
    )
    assert settle(admin, report(user))[0]["free"] == 6
    admin.execute("UPDATE limit_accounts SET untils = %s", ([now_ms() + 86_400_000],))
    (answer,) = settle(admin, report(user, needed=100))
    assert max(answer["outs"]) < 100_000


@pytest.mark.parametrize("kind", ["day", "month"])
def test_budgets_begin_anew_with_the_calendar(
    admin: psycopg.Connection, user: int, kind: str
) -> None:
    (lease,) = settle(admin, report(user, kind=kind, window_ms=0, needed=7))
    end = datetime.fromtimestamp(lease["bucket"] / 1000, UTC)
    assert end.time() == datetime.min.time()
    assert end - datetime.now(UTC) <= (timedelta(1) if kind == "day" else timedelta(31))
    assert kind == "day" or end.day == 1
    assert users.used(admin, users.get(admin, "alice")) == {kind: 7}
    # As it was in the last day or month.
    admin.execute("UPDATE limit_accounts SET untils = %s", ([now_ms() - 1],))
    assert users.used(admin, users.get(admin, "alice")) == {kind: 0}
    late = report(user, kind=kind, window_ms=0, bucket=now_ms() - 1, leased=7, spent=2)
    assert settle(admin, late)[0]["free"] == 8


def test_who_is_deleted_has_no_account(admin: psycopg.Connection, user: int) -> None:
    settle(admin, report(user, needed=1), report(user, kind="day", window_ms=0, needed=1))
    users.delete(admin, "alice")
    assert settle(admin, report(user, needed=1))[0]["granted"] == 1
    assert admin.execute("SELECT count(*) FROM limit_accounts").fetchone() == (0,)


def test_the_proxy_reports_and_does_nothing_else(settings: Settings, user: int) -> None:
    with connect(settings, Role.PROXY) as proxy:
        assert settle(proxy, report(user, needed=1))[0]["granted"] == 1
        for statement in ("SELECT * FROM limit_accounts", "DELETE FROM limit_accounts"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                proxy.execute(statement)


def test_an_account_stays_small(admin: psycopg.Connection, user: int) -> None:
    bucket = leased = 0
    for _ in range(300):
        (answer,) = settle(
            admin,
            report(user, quota=10**6, bucket=bucket, leased=leased, spent=1, needed=2, age_ms=0,
                   window_ms=1000, lease_ms=1000),
        )  # fmt: skip
        bucket, leased = answer["bucket"], answer["granted"]
    row = admin.execute("SELECT cardinality(untils) FROM limit_accounts").fetchone()
    assert row is not None
    assert row[0] < 120


async def test_a_user_deleted_meanwhile_gets_an_answer(
    feed: LeaseFeed, admin: psycopg.Connection, user: int
) -> None:
    users.delete(admin, "alice")
    meter = feed._ledger.meter(user, Rule(Kind.REQUESTS, 1, 60))
    for _ in range(3):
        assert (await asyncio.wait_for(feed.ask(meter, 1), 5)).allowed


async def test_a_database_that_hangs_holds_nobody_for_long(settings: Settings, user: int) -> None:
    rule = Rule(Kind.REQUESTS, 3, 600)
    async with relay_to(settings.postgres_port) as relay:
        feed = LeaseFeed(replace(settings, postgres_port=relay.port), Ledger())
        await feed.start()
        meter = feed._ledger.meter(user, rule)
        assert (await feed.ask(meter, 1)).allowed
        relay.hold_answers(containing=b"")
        began = time.monotonic()
        asked = [asyncio.create_task(feed.ask(meter, 1)) for _ in range(4)]
        answers = [answer.allowed for answer in await asyncio.gather(*asked)]
        assert time.monotonic() - began < 8
        # Alone, but for no more than the limit.
        assert answers == [True, True, False, False]
        assert not feed.connected
        for _ in range(3):
            feed._ledger.settle(meter, 1, 1, time.monotonic())
        relay.release_answers()
        deadline = time.monotonic() + 10
        while not feed.connected:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert not (await feed.ask(meter, 1)).allowed
        await feed.close()


async def test_whoever_leaves_while_waiting_holds_nothing(feed: LeaseFeed, user: int) -> None:
    meter = feed._ledger.meter(user, Rule(Kind.CONCURRENT, 2))
    for _ in range(5):
        tasks = [asyncio.create_task(feed.ask(meter, 1)) for _ in range(4)]
        await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        taken = sum(1 for task in tasks if not task.cancelled() and task.result().allowed)
        for _ in range(taken):
            feed._ledger.settle(meter, 1, 0, time.monotonic())
    assert meter.held == 0
    assert (await feed.ask(meter, 2)).allowed
