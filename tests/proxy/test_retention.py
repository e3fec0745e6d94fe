"""Old rows of the request log go, a day at a time, and harm nobody; their sums stay."""

import asyncio
import dataclasses
import time
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from llamakit_proxy import request_writer, schema, usage
from llamakit_proxy.database import Role, connect
from llamakit_proxy.request_log import RequestLog
from llamakit_proxy.settings import Settings
from support.log_rows import row, written_within
from support.processes import wait_for

TODAY = datetime.now(UTC).date()


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def make_partition(admin: psycopg.Connection, day: date) -> None:
    """As it was made ahead of that day."""
    admin.execute(
        f"CREATE TABLE llama_requests_{day:%Y%m%d} PARTITION OF llama_requests"
        f" FOR VALUES FROM ('{day}Z') TO ('{day + timedelta(days=1)}Z')".encode()
    )


@pytest.fixture
def old(admin: psycopg.Connection) -> psycopg.Connection:
    """Rows of 0, 5, 10, 11 and 100 days ago in partitions, of 50 days ago in the default one."""
    for days in (5, 10, 11, 100):
        make_partition(admin, ago(days))
    for days, number in ((0, 1), (5, 1), (10, 1), (11, 1), (100, 1), (50, 2_500)):
        admin.execute(
            "INSERT INTO llama_requests (created_at, username, path, status_code, duration_ms)"
            " SELECT %s::date + interval '23:59:59', 'alice', '/', 200, 1"
            " FROM generate_series(1, %s)",
            (ago(days), number),
        )
    return admin


def kept(admin: psycopg.Connection) -> list[int]:
    """How many days old the rows are that are still there."""
    rows = admin.execute("SELECT DISTINCT created_at::date FROM llama_requests").fetchall()
    return sorted((TODAY - day).days for (day,) in rows)


def keep(settings: Settings, days: int) -> list[str]:
    return schema.initialise(dataclasses.replace(settings, log_retention_days=days))


def steps(settings: Settings) -> list[str]:
    """What the proxy's role drops, until nothing is left to drop."""
    taken = []
    with connect(settings, Role.PROXY) as proxy:
        while (found := proxy.execute("SELECT drop_old_requests()").fetchone()) != (None,):
            assert found is not None
            taken.append(found[0])
    return taken


def total(admin: psycopg.Connection) -> int:
    since = datetime.now(UTC) - timedelta(days=200)
    return usage.report(admin, ["user"], since=since).total.requests


def test_what_is_too_old_goes_and_its_sums_stay(
    settings: Settings, old: psycopg.Connection
) -> None:
    assert keep(settings, 10) == ["rows of the request log are kept for 10 days"]
    assert keep(settings, 10) == []
    before = total(old)
    assert steps(settings) == [
        f"llama_requests_{ago(100):%Y%m%d}",
        f"llama_requests_{ago(11):%Y%m%d}",
        "llama_requests_default",
        "llama_requests_default",
    ]
    assert kept(old) == [0, 5, 10]
    assert total(old) == before == 2_505
    # Partitions of the days to come are there as before.
    assert old.execute("SELECT * FROM ensure_request_partitions(7)").fetchall() == []


def test_zero_is_for_ever(settings: Settings, old: psycopg.Connection) -> None:
    assert keep(settings, 0) == ["rows of the request log are kept for ever"]
    assert steps(settings) == []
    assert kept(old) == [0, 5, 10, 11, 50, 100]


def test_the_proxy_can_not_shorten_it(settings: Settings) -> None:
    with connect(settings, Role.PROXY) as proxy:
        for statement in (
            "UPDATE llama_retention SET days = 1",
            "SELECT * FROM llama_retention",
            "SELECT * FROM llama_usage",
            "DELETE FROM llama_usage",
            "INSERT INTO llama_usage SELECT now(), 'a', 'm', '/', 1, 1, 1, 1, 1, 1, '{}'",
            "SELECT duration_bucket(1)",
            "ALTER TABLE llama_requests DISABLE TRIGGER ALL",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                proxy.execute(statement.encode())


async def test_the_log_does_so_too_when_nothing_is_asked(
    settings: Settings, old: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(settings, 7)
    monkeypatch.setattr(request_writer, "_UPKEEP_EVERY_SECONDS", 0.1)
    log = RequestLog(settings)
    await log.start()
    await asyncio.to_thread(wait_for, lambda: kept(old) == [0, 5], 10, "old rows to go")
    await log.close()


async def test_the_log_drops_what_is_too_old_by_itself(
    settings: Settings, old: psycopg.Connection
) -> None:
    keep(settings, 7)
    log = RequestLog(settings)
    await log.start()
    log.record(row(1))
    await written_within(log, 10)
    await log.close()
    assert kept(old) == [0, 5]


async def test_whoever_reads_old_rows_holds_nobody_up(
    settings: Settings, old: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup, for one, reads for as long as it takes."""
    keep(settings, 7)
    with connect(settings, Role.ADMIN) as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM llama_requests")
        log = RequestLog(settings)
        await log.start()
        log.record(row(1))
        await written_within(log, 10)
        assert "old rows stay for now" in caplog.text
        start = time.monotonic()
        log.record(row(2))
        await written_within(log, 10)
        await log.close()
        assert time.monotonic() - start < 5
    assert kept(old) == [0, 5, 10, 11, 50, 100]
    assert len(steps(settings)) > 2


def test_two_proxies_at_once(settings: Settings, old: psycopg.Connection) -> None:
    keep(settings, 7)
    with connect(settings, Role.PROXY) as first, connect(settings, Role.PROXY) as second:
        with first.transaction():
            assert first.execute("SELECT drop_old_requests()").fetchone() != (None,)
            assert second.execute("SELECT drop_old_requests()").fetchone() == (None,)
        assert second.execute("SELECT drop_old_requests()").fetchone() != (None,)
