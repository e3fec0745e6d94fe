"""Log rows on disk: what an outage, a crash, a full disk and a bad file do to them."""

import dataclasses
import json
import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from llamakit_proxy.request_log import RequestLog
from llamakit_proxy.request_writer import RequestWriter, encode
from llamakit_proxy.settings import Settings
from llamakit_proxy.spool import FILE_BYTES, Spool, SpoolFullError
from support.log_rows import row, until, written, written_within
from support.postgres import Postgres
from support.relay import relay_to

ROOM = 64 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


def spooling(settings: Settings, folder: Path, room: int = ROOM) -> Settings:
    return dataclasses.replace(settings, spool_dir=folder, spool_max_bytes=room)


def lines(*numbers: int) -> list[bytes]:
    return [encode(row(number)) for number in numbers]


def leave(folder: Path, *numbers: int) -> Path:
    """A file with these rows, as a worker that was killed leaves it."""
    spool = Spool(folder, ROOM)
    before = set(folder.glob("*")) if folder.exists() else set()
    spool.append(lines(*numbers))
    spool.leave()
    [made] = set(folder.iterdir()) - before
    return made


def content(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


def ids(*numbers: int) -> set[str]:
    return {f"req-{number}" for number in numbers}


async def test_an_outage_longer_than_a_process(own_postgres: Postgres, folder: Path) -> None:
    settings = spooling(own_postgres.new_database(), folder)
    own_postgres.stop(signal.SIGKILL)
    for part in range(2):
        log = RequestLog(settings, max_rows=4_000)
        await log.start()
        # More than memory may hold: what the disk has need not be there, too.
        for first in range(part * 9_000, part * 9_000 + 9_000, 3_000):
            for number in range(first, first + 3_000):
                log.record(row(number))
            await until(lambda: log.spooled == log.pending == first + 3_000, 30)  # noqa: B023
        assert log.spool_bytes > FILE_BYTES
        await log.close()
        assert log.dropped == 0
    assert modes(folder) == {0o700, 0o600}
    own_postgres.start()
    log = RequestLog(settings)
    await log.start()
    log.record(row(18_000))
    await until(lambda: log.pending == log.spool_bytes == 0, 60)
    await log.close()
    assert written(settings) == ids(*range(18_001))
    assert (log.dropped, log.spooled, content(folder)) == (0, 0, [])


async def test_a_crash_before_the_spool_knows_writes_no_row_twice(
    settings: Settings, folder: Path
) -> None:
    settings = spooling(settings, folder)
    same = row(1), row(2), row(3)
    spool = Spool(folder, ROOM)
    spool.append([encode(one) for one in same])
    spool.leave()
    writer = RequestWriter(settings)
    assert await writer.write([encode(one) for one in same[:2]]) == 0
    await writer.close()
    log = RequestLog(settings)
    await log.start()
    await until(lambda: not content(folder), 20)
    await log.close()
    assert written(settings) == ids(1, 2, 3)


async def test_a_database_that_hangs_keeps_no_row_from_the_disk(
    postgres: Postgres, settings: Settings, folder: Path
) -> None:
    async with relay_to(postgres.port) as relay:
        slow = postgres.settings(settings.postgres_db, POSTGRES_AUTH_PORT=str(relay.port))
        log = RequestLog(spooling(slow, folder))
        await log.start()
        log.record(row(0))
        await written_within(log, 10)
        relay.hold_answers(containing=b"")
        for number in range(1, 4):
            log.record(row(number))
            # Before Postgres is given up, which takes longer.
            await until(lambda: log.spooled == number, 4)  # noqa: B023
        relay.cut()
        relay.release_answers()
        await written_within(log, 20)
        await log.close()
    assert log.dropped == 0
    assert written(settings) == ids(0, 1, 2, 3)


def test_a_file_is_left_over_once_its_worker_is_gone(folder: Path) -> None:
    one, other = Spool(folder, ROOM), Spool(folder, ROOM)
    one.append(lines(1, 2))
    other.append(lines(3))
    assert other.oldest() is None
    assert (one.leftover_rows, other.leftover_rows) == (0, 0)
    one.close()
    left = other.oldest()
    assert left is not None
    assert [json.loads(line)["request_id"] for line in left.rows] == ["req-1", "req-2"]
    assert Spool(folder, ROOM).oldest() is None  # somebody is at it
    left.release()
    again = Spool(folder, ROOM).oldest()
    assert again is not None
    again.finish()
    other.clear()
    other.close()
    assert list(folder.iterdir()) == []


def test_the_oldest_comes_first(folder: Path) -> None:
    made = [leave(folder, number) for number in range(3)]
    spool = Spool(folder, ROOM)
    for path in made:
        assert spool.leftover_rows in (0, 3 - made.index(path))
        left = spool.oldest()
        assert left is not None
        left.finish()
        assert not path.exists()
    assert spool.oldest() is None


def torn(whole: bytes) -> bytes:
    return whole[:-20]


def damaged(whole: bytes) -> bytes:
    first, _, rest = whole.partition(b"\n")
    return b"\0" * len(first) + b"\n[1]\n\xff\n" + b"[" * 100_000 + b"\n" + rest


async def test_a_last_row_that_was_torn_off_holds_up_no_other(
    settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = leave(folder, 1, 2, 3)
    path.write_bytes(torn(path.read_bytes()))
    await write_all(spooling(settings, folder))
    assert written(settings) == ids(1, 2)
    assert content(folder) == []
    assert "was not written to its end" in caplog.text


async def test_a_damaged_file_is_set_aside_and_its_rows_are_written(
    settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = leave(folder, 1, 2, 3)
    path.write_bytes(damaged(path.read_bytes()))
    leave(folder, 4)
    await write_all(spooling(settings, folder))
    assert written(settings) == ids(2, 3, 4)
    aside = path.with_suffix(".corrupt")
    assert content(folder) == [aside]
    assert "4 lines of a spooled file are no rows, the others are written" in caplog.text
    assert f"it is kept as {aside}" in caplog.text


async def test_rows_of_other_releases_are_written(settings: Settings, folder: Path) -> None:
    spool = Spool(folder, ROOM)
    older, newer = json.loads(encode(row(1))), json.loads(encode(row(2)))
    del older["ttft_ms"]
    newer["what_comes_later"] = {"a": 1}
    spool.append([json.dumps(one).encode() for one in (older, newer)])
    spool.leave()
    await write_all(spooling(settings, folder))
    assert written(settings) == ids(1, 2)


async def write_all(settings: Settings) -> None:
    log = RequestLog(settings)
    await log.start()
    await until(lambda: not list(settings.spool_dir.glob("*.rows")), 20)  # type: ignore[union-attr]
    await log.close()


async def test_a_full_spool_leaves_rows_in_memory(
    own_postgres: Postgres, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(encode(row(100)))
    settings = spooling(own_postgres.new_database(), folder, room=size * 35)
    own_postgres.stop()
    log = RequestLog(settings, max_rows=50)
    await log.start()
    for number in range(30):
        log.record(row(number))
    await until(lambda: log.spooled == 30, 10)
    for number in range(30, 100):
        log.record(row(number))
    await until(lambda: "LLAMA_PROXY_SPOOL_MAX_BYTES" in caplog.text, 10)
    assert (log.pending, log.spooled, log.dropped) == (80, 30, 20)
    own_postgres.start()
    await written_within(log, 30)
    await log.close()
    assert written(settings) == ids(*range(80))


def test_a_disk_that_is_full_in_the_middle_of_a_row_keeps_whole_rows(folder: Path) -> None:
    spool = Spool(folder, ROOM)
    spool.append(lines(1))
    [path] = folder.iterdir()
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            spool.append(lines(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    spool.append(lines(3))
    assert path.read_bytes().count(b"\n") == 2
    with pytest.raises(SpoolFullError):
        Spool(folder, len(path.read_bytes()) + 10).append(lines(4))


def test_what_is_set_aside_counts_against_the_bound(folder: Path) -> None:
    """Else a disk that damages files fills up without an end."""
    leave(folder, 1).rename(folder / "1.corrupt")
    aside = (folder / "1.corrupt").stat().st_size
    [line] = lines(2)
    with pytest.raises(SpoolFullError):
        Spool(folder, aside + len(line)).append([line])
    Spool(folder, aside + len(line) + 1).append([line])
    spool = Spool(folder, ROOM)
    spool.look()
    assert spool.bytes == aside + len(line) + 1


def test_a_file_that_is_too_large_to_be_read_is_set_aside(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = leave(folder, 1)
    content = path.read_bytes()
    with path.open("r+b") as file:
        # On the disk it has no more than before.
        file.truncate((128 << 20) + 1)
    left = Spool(folder, ROOM).oldest()
    assert left is not None
    assert left.rows == []
    left.finish()
    aside = path.with_suffix(".corrupt")
    with aside.open("rb") as file:
        assert file.read(len(content)) == content
    assert f"it is kept as {aside}" in caplog.text


def test_rows_go_to_a_new_file_when_somebody_has_removed_the_own_one(folder: Path) -> None:
    spool = Spool(folder, ROOM)
    spool.append(lines(1))
    [path] = folder.iterdir()
    path.unlink()
    [line] = lines(2)
    spool.append([line])
    [path] = folder.iterdir()
    assert path.read_bytes() == line + b"\n"
    assert spool.size == path.stat().st_size
    spool.close()
    left = Spool(folder, ROOM).oldest()
    assert left is not None
    assert [json.loads(line)["request_id"] for line in left.rows] == ["req-2"]
    left.finish()


async def test_during_an_outage_the_disk_is_told_to_keep_the_rows(
    own_postgres: Postgres, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = spooling(own_postgres.new_database(), folder)
    own_postgres.stop()
    kept: list[int] = []

    def fdatasync(descriptor: int) -> None:
        real(descriptor)
        kept.append(os.fstat(descriptor).st_size)

    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    log = RequestLog(settings)
    await log.start()
    log.record(row(1))
    await until(lambda: bool(kept), 10)
    [path] = content(folder)
    assert kept[0] == path.stat().st_size > 0
    await log.close()


async def test_a_folder_that_can_not_be_written_to_costs_nothing_while_postgres_is_there(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log = RequestLog(spooling(settings, tmp_path / "file" / "spool"))
    await log.start()
    log.record(row(1))
    await written_within(log, 10)
    await log.close()
    assert (log.dropped, written(settings)) == (0, ids(1))
    assert "the spool fails" in caplog.text


def test_what_is_no_file_of_ours_is_left_alone(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(b"".join(line + b"\n" for line in lines(1)))
    (folder / "1.rows").symlink_to(tmp_path / "elsewhere")
    (folder / "2.rows").mkdir()
    (folder / "notes").write_text("hello")
    spool = Spool(folder, ROOM)
    assert spool.oldest() is None
    assert len(list(folder.iterdir())) == 3
