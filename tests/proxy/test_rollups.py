"""Sums per day: every row is counted once, whenever and by whomever it comes."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from llamakit_proxy import migrate, provision, usage
from llamakit_proxy.database import Role, connect
from llamakit_proxy.request_log import RequestLog, RequestRow
from llamakit_proxy.request_writer import RequestWriter, encode
from llamakit_proxy.settings import Settings
from support.log_rows import check_usage, row
from support.postgres import Postgres

DAY = 86_400


def some_rows(count: int, seed: int = 1) -> list[RequestRow]:
    """Of several days, users, models and routes; the same for the same seed."""
    chosen = random.Random(seed)
    now = time.time()
    return [
        row(
            number,
            request_id=f"req-{seed}-{number}",
            created_at=now - chosen.choice([0, 1, 2, 3, 30, 4_000]) * DAY - chosen.random() * DAY,
            username=chosen.choice(["alice", "Bob", "bob", "a.very.long@name"]),
            model=chosen.choice(["tiny", "big", None]),
            path=chosen.choice(["/v1/chat/completions", "/v1/models"]),
            status_code=chosen.choice([200, 200, 400, 429, 499, 503]),
            error_code=chosen.choice([None, None, "client_disconnected", "backend_error"]),
            duration_ms=chosen.choice([0.0, 0.4, chosen.lognormvariate(7, 2)]),
            prompt_tokens=chosen.choice([None, 0, chosen.randrange(10_000)]),
            completion_tokens=chosen.choice([None, chosen.randrange(1_000)]),
        )
        for number in range(count)
    ]


def count(admin: psycopg.Connection) -> int:
    found = admin.execute("SELECT coalesce(sum(requests), 0)::int FROM llama_usage").fetchone()
    assert found is not None
    return int(found[0])


async def test_sums_are_those_of_the_rows(settings: Settings, admin: psycopg.Connection) -> None:
    log = RequestLog(settings)
    await log.start()
    for one in some_rows(3_000):
        log.record(one)
    await log.close()
    assert count(admin) == 3_000
    check_usage(admin)


async def test_writers_at_once_with_rows_in_common(
    settings: Settings, admin: psycopg.Connection
) -> None:
    # None that the first writer's upkeep may drop before the last one comes with it, too.
    young = [one for one in some_rows(1_200) if one.created_at > time.time() - 80 * DAY]
    rows = [encode(one) for one in young]

    async def write(seed: int) -> None:
        writer = RequestWriter(settings)
        mixed = rows.copy()
        random.Random(seed).shuffle(mixed)
        for first in range(0, len(mixed), 100):
            assert await writer.write(mixed[first : first + 100]) == 0
        await writer.close()

    await asyncio.gather(*map(write, range(4)))
    assert count(admin) == len(rows) > 900
    check_usage(admin)


def test_what_is_rolled_back_is_not_counted(admin: psycopg.Connection) -> None:
    with admin.transaction():
        admin.execute(
            "INSERT INTO llama_requests (username, path, status_code, duration_ms)"
            " VALUES ('alice', '/v1/models', 200, 1)"
        )
        assert count(admin) == 1
        raise psycopg.Rollback
    assert count(admin) == 0


def test_copy_as_an_earlier_release_does_it_is_counted(
    settings: Settings, admin: psycopg.Connection
) -> None:
    """After a rollback, and in the moment of a switch."""
    copy = "COPY llama_requests (request_id, username, path, status_code, duration_ms) FROM STDIN"
    with (
        connect(settings, Role.PROXY) as proxy,
        proxy.cursor() as cursor,
        cursor.copy(copy) as rows,
    ):
        for number in range(50):
            rows.write_row((str(number), "alice", "/v1/models", 200, float(number)))
    assert count(admin) == 50
    check_usage(admin)


def test_rows_from_before_are_counted_by_the_migration(postgres: Postgres) -> None:
    settings = postgres.settings("rollupsbefore")
    provision.provision(settings)
    migrations = migrate.packaged()
    [rollups] = [one for one in migrations if one.name == "0006_rollups"]
    with connect(settings, Role.ADMIN) as admin:
        migrate.migrate(admin, migrations[: rollups.version - 1])
        for one in some_rows(300):
            admin.execute(
                "INSERT INTO llama_requests SELECT * FROM"
                " json_populate_record(NULL::llama_requests, %s)",
                (encode(one).decode(),),
            )
        migrate.migrate(admin, migrations)
        assert count(admin) == 300
        check_usage(admin)


def test_the_moment_of_a_row_decides_its_day(admin: psycopg.Connection) -> None:
    admin.execute("SET timezone = 'Pacific/Auckland'")
    admin.execute(
        "INSERT INTO llama_requests (created_at, username, path, status_code, duration_ms)"
        " SELECT moment::timestamptz, 'alice', '/', 200, 1 FROM unnest(ARRAY["
        "'2026-11-25 23:59:59.999999Z', '2026-11-26 00:00:00Z', '2026-11-26 23:59:59Z']) AS moment"
    )
    days = admin.execute("SELECT day::text, requests FROM llama_usage ORDER BY day").fetchall()
    assert days == [("2026-11-25", 1), ("2026-11-26", 2)]


async def test_usage_begins_in_the_middle_of_a_day(
    settings: Settings, admin: psycopg.Connection
) -> None:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    noon = midnight + timedelta(days=2, hours=12)
    seconds = (-1, 0, 1, 5 * 3_600, 12 * 3_600 - 1, 12 * 3_600, 3 * DAY)
    writer = RequestWriter(settings)
    await writer.write(
        [encode(row(n, created_at=noon.timestamp() + s)) for n, s in enumerate(seconds)]
    )
    await writer.close()

    def requests(since: datetime) -> int:
        return usage.report(admin, ["user", "day"], since=since).total.requests

    assert requests(noon) == 6
    assert requests(noon - timedelta(seconds=1)) == 7
    assert requests(noon + timedelta(seconds=2)) == 4
    assert requests(noon.replace(hour=0)) == 7
    assert requests(noon.replace(hour=0) + timedelta(days=1)) == 2
    days = usage.report(admin, ["day"], since=noon).groups
    assert [(one.labels["day"], one.requests) for one in days] == [
        (noon.date().isoformat(), 4),
        ((noon + timedelta(days=1)).date().isoformat(), 1),
        ((noon + timedelta(days=3)).date().isoformat(), 1),
    ]
    # Once the rows are gone the day counts as a whole.
    admin.execute(f"DROP TABLE llama_requests_{noon:%Y%m%d}".encode())
    assert requests(noon) == 7


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.5])
def test_p95_is_close(admin: psycopg.Connection, sigma: float) -> None:
    chosen = random.Random(7)
    durations = [chosen.lognormvariate(6, sigma) for _ in range(999)]
    admin.execute(
        "INSERT INTO llama_requests (username, path, status_code, duration_ms)"
        " SELECT 'alice', '/', 200, ms FROM unnest(%s::float8[]) AS ms",
        (durations,),
    )
    found = usage.report(admin, ["user"], since=datetime.now(UTC) - timedelta(days=3)).total
    exact = sorted(durations)[949]
    assert found.p95_ms == pytest.approx(exact, rel=0.26)
    assert found.average_ms == pytest.approx(sum(durations) / 999, rel=1e-5)
    assert found.max_ms == pytest.approx(max(durations), rel=1e-5)
