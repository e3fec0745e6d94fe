"""Backups: what is made is whole, what is not whole is gone, and the newest good one stays."""

import json
import os
import pwd
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from llamakit_proxy import users
from llamakit_proxy.settings import Settings
from support.backups import KIT, Backups, backups_of
from support.postgres import Postgres


@pytest.fixture
def backups(postgres: Postgres, settings: Settings, tmp_path: Path) -> Backups:
    return backups_of(postgres, settings, tmp_path)


def fill(admin: psycopg.Connection, rows: int) -> None:
    """A request log that takes a moment to dump, of text that can't be compressed."""
    admin.execute(
        "INSERT INTO llama_requests (username, path, status_code, duration_ms, error_code)"
        " SELECT 'anna', '/v1/chat/completions', 200, 1, md5(n::text) || md5((n + 1)::text)"
        " FROM generate_series(1, %s) AS n",
        (rows,),
    )


def test_a_backup_says_what_it_holds(backups: Backups, admin: psycopg.Connection) -> None:
    users.create(admin, "anna")
    users.create(admin, "ben")
    done = backups.run("backup")
    assert done.code == 0, done.err
    assert "2 users, 2 keys, schema " in done.out
    [name] = backups.names
    file = backups.folder / name
    assert file.stat().st_mode & 0o777 == 0o600
    assert backups.leftovers == []
    shown = json.loads(backups.run("backups", "--json").out)
    assert [row["file"] for row in shown] == [str(file)]
    assert shown[0]["bytes"] == file.stat().st_size
    assert name in backups.run("backups").out


def test_the_oldest_are_removed(backups: Backups) -> None:
    old = [f"llamakit-2020010{day}T000000Z.dump" for day in range(1, 5)]
    mine = {"mine.dump", "llamakit-2020.dump", f"{old[0]}.keep", f"my-{old[0]}"}
    for name in [*old, *mine]:
        (backups.folder / name).write_text("old")
    done = backups.run("backup", "--keep", "3")
    assert done.code == 0, done.err
    assert backups.names[1:3] == [
        "llamakit-20200104T000000Z.dump",
        "llamakit-20200103T000000Z.dump",
    ]
    # What the kit did not name is not the kit's to remove.
    assert mine < {path.name for path in backups.folder.iterdir()}
    assert f"removed {old[1]}, {old[0]}" in done.out


def test_a_new_one_stays_though_the_clock_was_ahead(backups: Backups) -> None:
    ahead = [f"llamakit-2999010{day}T000000Z.dump" for day in (1, 2)]
    for name in ahead:
        (backups.folder / name).write_text("made in the future")
    (backups.folder / "llamakit-29990103T000000Z.dump").symlink_to("nowhere")
    done = backups.run("backup", "--keep", "2")
    assert done.code == 0, done.err
    assert f"removed {ahead[0]}" in done.out.replace(f"{backups.folder}/", "")
    (made,) = {*backups.names} - {*ahead, "llamakit-29990103T000000Z.dump"}
    assert made in done.out


def test_none_kept_is_refused(backups: Backups) -> None:
    done = backups.run("backup", "--keep", "0")
    assert done.code == 1
    assert "expected 1 or more" in done.err


def test_a_failed_one_removes_no_old_one(backups: Backups) -> None:
    name = backups.make()
    backups.set(database="is not there")
    done = backups.run("backup", "--keep", "1")
    assert done.code == 1
    assert 'database "is not there" does not exist' in done.err
    assert backups.names == [name]
    assert backups.leftovers == []


def test_two_at_once(backups: Backups, admin: psycopg.Connection) -> None:
    """The second one says so; pg_dump waits for this table's lock, so both are at work."""
    with admin.transaction():
        admin.execute("LOCK TABLE users")
        first = backups.start("backup")
        wait_for_part(backups)
        second = backups.run("backup")
    assert second.code == 1
    assert "another backup or restore is at work" in second.err
    assert first.wait(60) == 0
    first.communicate()
    assert len(backups.names) == 1


def test_killed_in_the_middle(backups: Backups, admin: psycopg.Connection) -> None:
    with admin.transaction():
        admin.execute("LOCK TABLE users")
        child = backups.start("backup")
        wait_for_part(backups)
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        assert backups.names == []
        assert len(backups.leftovers) == 1
    child.communicate()
    # Its pg_dump may still have been at work; the next run is not hindered.
    backups.make()
    assert len(backups.names) == 1
    assert backups.leftovers == []


def test_a_full_disk(backups: Backups, admin: psycopg.Connection) -> None:
    """A limit on a file's size fails a write where a full disk does."""
    name = backups.make()
    fill(admin, 20_000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = backups.run("backup", limit=limit)
    assert done.code == 1
    assert "SIGXFSZ" in done.err
    assert "Raise it" in done.err
    assert backups.names == [name]
    assert backups.leftovers == []


def test_a_server_that_is_not_there(backups: Backups) -> None:
    backups.set(port=1)
    done = backups.run("backup")
    assert done.code == 1
    assert "Start PostgreSQL" in done.err


@pytest.mark.parametrize("password", ["not-this-one", "with:colon", "back\\slash"])
def test_the_password_is_seen_nowhere(backups: Backups, tmp_path: Path, password: str) -> None:
    (tmp_path / "postgres_superuser_password").write_text(password)
    backups.set(secrets_dir=str(tmp_path))
    done = backups.run("backup")
    assert done.code == 1
    assert "password authentication failed" in done.err
    assert password not in done.out + done.err


def test_the_password_is_in_no_argument_or_environment(
    postgres: Postgres, backups: Backups, admin: psycopg.Connection
) -> None:
    with admin.transaction():
        admin.execute("LOCK TABLE users")
        child = backups.start("backup")
        wait_for_part(backups)
        seen = b""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(postgres.binaries).encode() in (process / "cmdline").read_bytes():
                    seen += (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    assert b"pg_dump" in seen
    assert postgres.superuser_password.encode() not in seen
    child.communicate()


def test_a_password_with_libpqs_own_characters(
    postgres: Postgres, backups: Backups, tmp_path: Path
) -> None:
    password = r"a:b\c'd e"
    with postgres.connect() as superuser:
        superuser.execute("CREATE ROLE backup_maker SUPERUSER LOGIN PASSWORD 'a:b\\c''d e'")
    (tmp_path / "postgres_superuser_password").write_text(password)
    backups.set(user="backup_maker", secrets_dir=str(tmp_path))
    try:
        backups.make()
    finally:
        with postgres.connect() as superuser:
            superuser.execute("DROP ROLE backup_maker")


def test_settings_that_are_not_there(backups: Backups) -> None:
    backups.settings_file.unlink()
    done = backups.run("backup")
    assert done.code == 1
    assert "An external server is backed up by whoever runs it" in done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_root_makes_it_as_the_user_whose_it_is(backups: Backups) -> None:
    backups.set(run_as="nobody")
    os.chown(backups.folder, 65534, 65534)
    # pytest's own folders are closed to everyone else.
    for parent in [backups.folder, *backups.folder.parents]:
        if str(parent).startswith("/tmp/") and parent != backups.folder:
            parent.chmod(0o755)
    name = backups.make()
    assert (backups.folder / name).stat().st_uid == 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_root_keeps_none_of_its_groups() -> None:
    """With the group of the disks, or of another service, the user would not be just the user."""
    program = (
        "import os; from llamakit.database.backup import become; os.setgroups([0, 4, 6]);"
        "become('nobody'); print(os.getgroups(), os.getresgid(), os.getresuid(), os.getcwd())"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(KIT)},
        capture_output=True,
        text=True,
        check=True,
    )
    nobody = pwd.getpwnam("nobody")
    user, group = (nobody.pw_uid,) * 3, (nobody.pw_gid,) * 3
    assert done.stdout.strip() == f"[] {group} {user} /"


def wait_for_part(backups: Backups) -> None:
    """Until a backup is being written."""
    deadline = time.monotonic() + 30
    while not list(backups.folder.glob(".llamakit-*.part")):
        assert time.monotonic() < deadline, "no backup began"
        time.sleep(0.02)
