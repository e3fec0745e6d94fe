"""The request log against a real PostgreSQL."""

import asyncio
import dataclasses
import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from llamakit_proxy import request_log
from llamakit_proxy.request_log import RequestLog
from llamakit_proxy.settings import Settings
from support.log_rows import row, written, written_within
from support.postgres import Postgres
from support.relay import relay_to


async def test_a_row_arrives_as_it_was(settings: Settings, admin: psycopg.Connection) -> None:
    log = RequestLog(settings)
    await log.start()
    sent = row(1)
    log.record(sent)
    await written_within(log, 5)
    with admin.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute("SELECT * FROM llama_requests").fetchone()
    assert found is not None
    assert found.pop("created_at").timestamp() == pytest.approx(sent.created_at, abs=1e-5)
    expected = dataclasses.asdict(sent)
    del expected["created_at"]
    assert found == expected
    await log.close()


async def test_rows_go_to_the_partition_of_their_day(
    settings: Settings, admin: psycopg.Connection
) -> None:
    midnight = (time.time() // 86_400 + 1) * 86_400
    moments = {
        "now": time.time(),
        "last": midnight - 1e-6,
        "first": midnight,
        "a week ahead": midnight + 6 * 86_400,
        "beyond": midnight + 9 * 86_400,
        "past": time.time() - 400 * 86_400,
        "a dead clock": 0.0,
        "a mad clock": 2**33,
    }
    log = RequestLog(settings)
    await log.start()
    for name, moment in moments.items():
        log.record(row(0, created_at=moment, request_id=name))
    await log.close()
    assert written(settings) == set(moments)
    places: dict[str, str] = dict(
        admin.execute("SELECT request_id, tableoid::regclass::text FROM llama_requests").fetchall()
    )
    for name in ("beyond", "past", "a dead clock", "a mad clock"):
        assert places.pop(name) == "llama_requests_default"
    assert places == {
        name: f"llama_requests_{time.strftime('%Y%m%d', time.gmtime(moments[name]))}"
        for name in places
    }


async def test_closing_writes_what_waits(settings: Settings) -> None:
    log = RequestLog(settings)
    await log.start()
    for number in range(5_000):
        log.record(row(number))
    await log.close()
    assert (log.pending, log.dropped) == (0, 0)
    assert len(written(settings)) == 5_000


async def test_odd_texts_are_written(settings: Settings, admin: psycopg.Connection) -> None:
    texts = [
        "a\0b",
        "\ud800",
        "tab\tnew\nline\\",
        "\\.",
        "\\N",
        "x" * 100_000,
        "💥'; DROP TABLE users",
        "",
    ]
    log = RequestLog(settings)
    await log.start()
    for number, text in enumerate(texts):
        log.record(row(number, username=text, model=text, error_code=text, client=text))
    await log.close()
    assert log.dropped == 0
    rows = admin.execute(
        "SELECT username, model, error_code, client FROM llama_requests ORDER BY request_id"
    ).fetchall()
    assert [name for name, *_ in rows] == [
        "a\ufffdb", "?", "tab\tnew\nline\\", "\\.", "\\N", "x" * 300, "💥'; DROP TABLE users", "",
    ]  # fmt: skip
    assert all(len(set(texts)) == 1 for texts in rows)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt_tokens": 2**40},
        {"request_bytes": 2**70},
        {"status_code": "many"},
        {"created_at": float("nan")},
        {"created_at": 1e18},
        {"username": None},
        {"stream": "perhaps"},
    ],
    ids=str,
)
async def test_a_row_that_is_refused_holds_up_no_other(
    settings: Settings, bad: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog(settings)
    await log.start()
    for number in range(100):
        log.record(row(number, **(bad if number in (0, 41, 42, 99) else {})))
    await written_within(log, 10)
    await log.close()
    assert log.dropped == 4
    assert written(settings) == {f"req-{n}" for n in range(100)} - {
        "req-0", "req-41", "req-42", "req-99",
    }  # fmt: skip
    assert "req-41" in caplog.text
    assert "4 rows were dropped" in caplog.text


async def test_a_postgres_killed_and_back(
    own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llamakit_proxy")
    settings = own_postgres.new_database()
    log = RequestLog(settings)
    await log.start()
    for number in range(100):
        log.record(row(number))
    await written_within(log, 5)
    own_postgres.stop(signal.SIGKILL)
    for number in range(100, 3_000):
        log.record(row(number))
    await asyncio.sleep(1.5)
    assert log.pending == 2_900
    own_postgres.start()
    log.record(row(3_000))
    await written_within(log, 15)
    assert log.dropped == 0
    assert written(settings) == {f"req-{n}" for n in range(3_001)}
    await log.close()
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert 1 <= len(warnings) <= 4
    assert "written again" in caplog.text


async def test_a_lost_confirmation_writes_no_row_twice(
    postgres: Postgres, settings: Settings
) -> None:
    async with relay_to(postgres.port) as relay:
        log = RequestLog(
            postgres.settings(settings.postgres_db, POSTGRES_AUTH_PORT=str(relay.port))
        )
        await log.start()
        log.record(row(0))
        await written_within(log, 5)
        relay.hold_answers(containing=b"INSERT 0 700")  # the server's "done"
        for number in range(1, 701):
            log.record(row(number))
        await relay.holding.wait()
        relay.cut()
        relay.release_answers()
        await written_within(log, 10)
        assert log.dropped == 0
        assert written(settings) == {f"req-{n}" for n in range(701)}
        await log.close()


async def test_a_full_buffer_drops_counts_and_says_so(
    own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    settings = own_postgres.new_database()
    own_postgres.stop()
    log = RequestLog(settings, max_rows=500)
    await log.start()
    for number in range(700):
        log.record(row(number))
    assert log.pending == 500
    assert log.dropped == 200
    start = time.monotonic()
    await log.close()
    assert time.monotonic() - start < 9
    assert log.dropped == 700
    assert log.pending == 0
    assert "700 since start" in caplog.text


async def test_closing_ends_also_when_postgres_hangs(
    postgres: Postgres, settings: Settings
) -> None:
    async with relay_to(postgres.port) as relay:
        log = RequestLog(
            postgres.settings(settings.postgres_db, POSTGRES_AUTH_PORT=str(relay.port))
        )
        await log.start()
        log.record(row(1))
        await written_within(log, 5)
        relay.hold_answers(containing=b"")
        log.record(row(2))
        start = time.monotonic()
        await log.close()
        assert time.monotonic() - start < 9
        assert log.dropped == 1


async def test_closing_while_postgres_hangs_leaves_the_rows_to_the_disk(
    postgres: Postgres, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given up before the next rows would be saved by the clock.
    monkeypatch.setattr(request_log, "_CLOSE_SECONDS", request_log.FLUSH_SECONDS / 10)
    async with relay_to(postgres.port) as relay:
        slow = postgres.settings(settings.postgres_db, POSTGRES_AUTH_PORT=str(relay.port))
        slow = dataclasses.replace(slow, spool_dir=tmp_path / "spool", spool_max_bytes=1 << 20)
        log = RequestLog(slow)
        await log.start()
        log.record(row(1))
        await written_within(log, 5)
        relay.hold_answers(containing=b"")
        log.record(row(2))
        await relay.holding.wait()
        for number in range(3, 10):
            log.record(row(number))
        await log.close()
        assert log.dropped == 0
    [file] = (tmp_path / "spool").iterdir()
    spooled = {json.loads(line)["request_id"] for line in file.read_bytes().splitlines()}
    assert spooled == {f"req-{number}" for number in range(2, 10)}


async def test_without_partitions_ahead_rows_still_arrive(
    settings: Settings, admin: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    admin.execute("DROP FUNCTION ensure_request_partitions(integer)")
    log = RequestLog(settings)
    await log.start()
    log.record(row(1))
    await log.close()
    assert written(settings) == {"req-1"}
    assert "no partitions made ahead" in caplog.text
