"""Restores: what was in use goes on until the backup is in its place, and is kept after that."""

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from llamakit_proxy import migrate, provision, users
from llamakit_proxy.database import DatabaseError, Role, connect
from llamakit_proxy.schema import initialise
from llamakit_proxy.settings import Settings
from support.backend import free_port
from support.backups import Backups, backups_of
from support.postgres import Postgres, running_postgres
from support.proxy import Proxy, model_entry, running_proxy


@pytest.fixture
def backups(postgres: Postgres, settings: Settings, tmp_path: Path) -> Backups:
    return backups_of(postgres, settings, tmp_path)


def names(settings: Settings) -> list[str]:
    with connect(settings, Role.ADMIN) as connection:
        rows = connection.execute("SELECT username FROM users ORDER BY username").fetchall()
    return [name for (name,) in rows]


def databases(postgres: Postgres, settings: Settings) -> set[str]:
    """The databases made from the test's own one."""
    with postgres.connect() as superuser:
        rows = superuser.execute("SELECT datname FROM pg_database").fetchall()
    return {name for (name,) in rows if name.startswith(f"{settings.postgres_db}_")}


def add(settings: Settings, name: str) -> None:
    with connect(settings, Role.ADMIN) as connection:
        users.create(connection, name)


def test_the_state_of_the_backup_is_back_and_the_one_before_is_kept(
    postgres: Postgres, settings: Settings, backups: Backups
) -> None:
    add(settings, "anna")
    file = backups.make()
    add(settings, "ben")
    done = backups.run("restore", "latest", "--yes")
    assert done.code == 0, done.err
    assert f"{file}: 1 users, 1 keys, schema " in done.out
    assert names(settings) == ["anna"]
    [kept] = databases(postgres, settings)
    assert re.fullmatch(rf"{settings.postgres_db}_before_\d{{8}}T\d{{6}}Z", kept)
    assert f"dropdb --host=127.0.0.1 --port={postgres.port} --username=postgres {kept}" in done.out
    with postgres.connect(kept) as superuser:
        assert superuser.execute("SELECT count(*) FROM users").fetchone() == (2,)
    # As a deployment would leave it: there is nothing to put right.
    assert provision.provision(settings) + initialise(settings) == []
    connect(settings, Role.PROXY).close()


def test_the_request_log_and_its_sums_are_back(settings: Settings, backups: Backups) -> None:
    insert = (
        "INSERT INTO llama_requests (username, path, status_code, duration_ms, prompt_tokens)"
        " SELECT 'anna', '/v1/models', 200, n, n FROM generate_series(1, 50) AS n"
    )
    with connect(settings, Role.ADMIN) as admin:
        admin.execute(insert)
        # Of a day whose rows are dropped already.
        admin.execute(
            "INSERT INTO llama_usage"
            " VALUES ('2020-01-01', 'ben', '-', '/', 2, 0, 0, 0, 9, 9, array_fill(0, ARRAY[64]))"
        )
        before = admin.execute("SELECT * FROM llama_usage ORDER BY 1, 2, 3, 4").fetchall()
    backups.make()
    assert backups.run("restore", "latest", "--yes").code == 0
    with connect(settings, Role.ADMIN) as admin:
        after = admin.execute("SELECT * FROM llama_usage ORDER BY 1, 2, 3, 4").fetchall()
        assert after == before
        admin.execute(insert)
        assert admin.execute("SELECT count(*) FROM llama_requests").fetchone() == (100,)
        assert admin.execute("SELECT sum(requests) FROM llama_usage").fetchone() == (102,)


def test_only_the_last_one_is_kept(
    postgres: Postgres, settings: Settings, backups: Backups
) -> None:
    file = backups.make()
    assert backups.run("restore", file, "--yes").code == 0
    [first] = databases(postgres, settings)
    time.sleep(1)  # its name has seconds
    done = backups.run("restore", str(backups.folder / file), "--yes")
    assert f"dropped what an earlier restore had kept: {first}" in done.out
    [second] = databases(postgres, settings)
    assert second != first


def test_nothing_happens_without_yes(settings: Settings, backups: Backups) -> None:
    backups.make()
    add(settings, "ben")
    done = backups.run("restore", "latest")
    assert done.code == 2
    assert "--yes" in done.err
    assert names(settings) == ["ben"]


@pytest.fixture
def proxy(postgres: Postgres, tmp_path: Path) -> Iterator[Proxy]:
    model = model_entry("tiny", f"http://127.0.0.1:{free_port()}")
    with running_proxy(postgres, tmp_path, [model]) as running:
        yield running


def answer(proxy: Proxy, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{proxy.url}/v1/models", headers=headers).status_code


def becomes(proxy: Proxy, key: str, wanted: int) -> bool:
    """Whether the proxy answers so, soon."""
    deadline = time.monotonic() + 10
    while answer(proxy, key) != wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_running_proxy_follows(postgres: Postgres, proxy: Proxy, tmp_path: Path) -> None:
    """It reconnects by itself, and knows the keys of the restored state and no others."""
    backups = backups_of(postgres, proxy.settings, tmp_path)
    kept, revoked_before, revoked_after = proxy.new_key(), proxy.new_key(), proxy.new_key()
    revoke(proxy, revoked_before)
    backups.make()
    made_after = proxy.new_key()
    revoke(proxy, revoked_after)
    assert becomes(proxy, revoked_after, 401)
    assert answer(proxy, made_after) == answer(proxy, kept) == 200
    done = backups.run("restore", "latest", "--yes")
    assert done.code == 0, done.err
    assert becomes(proxy, revoked_after, 200)
    assert becomes(proxy, made_after, 401)
    assert answer(proxy, revoked_before) == 401
    assert answer(proxy, kept) == 200
    new = proxy.new_key("carla")
    assert becomes(proxy, new, 200)
    revoke(proxy, new)
    assert becomes(proxy, new, 401)


def revoke(proxy: Proxy, key: str) -> None:
    with proxy.admin() as connection:
        connection.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE public_id = %s", (key.split("-")[2],)
        )


def test_clients_that_come_back_at_once_do_not_hinder_it(
    postgres: Postgres, settings: Settings, backups: Backups
) -> None:
    backups.make()
    child = backups.start("restore", "latest", "--yes")
    while child.poll() is None:
        with (
            contextlib.suppress(DatabaseError, psycopg.Error),
            connect(settings, Role.PROXY) as connection,
        ):
            connection.execute("SELECT pg_sleep(0.2)")
    _, errors = child.communicate()
    assert child.returncode == 0, errors


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flipped"])
def test_a_damaged_dump_is_refused(
    postgres: Postgres, settings: Settings, backups: Backups, damage: str
) -> None:
    add(settings, "anna")
    file = backups.folder / backups.make()
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "cut": content[: len(content) * 3 // 4],
            "text": b"SELECT 1;\n",
            "flipped": content[:-600]
            + bytes(byte ^ 0x55 for byte in content[-600:-200])
            + content[-200:],
        }[damage]
    )
    add(settings, "ben")
    done = backups.run("restore", "latest", "--yes")
    assert done.code == 1
    assert "pg_restore failed" in done.err
    assert names(settings) == ["anna", "ben"]
    assert databases(postgres, settings) == set()


def test_a_dump_from_which_something_else_is_restored_is_refused(
    postgres: Postgres, settings: Settings, backups: Backups
) -> None:
    """Somebody's table, derived from ours, has rows that count as ours once they are restored."""
    add(settings, "anna")
    with connect(settings, Role.ADMIN) as admin, admin.transaction():
        admin.execute("CREATE TABLE guests () INHERITS (users)")
        admin.execute("INSERT INTO guests (id, username, version) VALUES (1000, 'guest', 1)")
    file = backups.folder / backups.make()
    with connect(settings, Role.ADMIN) as admin:
        admin.execute("DROP TABLE guests")
    add(settings, "ben")
    for command in (("restore", "latest", "--yes"), ("restore-test", "latest")):
        done = backups.run(*command)
        assert done.code == 1
        assert f"{file} holds 1 users, 1 keys, schema " in done.err
        assert "and what was restored from it 2 users, 1 keys, schema " in done.err
        assert names(settings) == ["anna", "ben"]
        assert databases(postgres, settings) == set()


def test_a_database_without_our_tables_is_not_backed_up(backups: Backups) -> None:
    backups.set(database="postgres")
    done = backups.run("backup")
    assert done.code == 1
    assert "not of llamakit: it lacks the tables schema_migrations, users, api_keys" in done.err
    assert backups.names == backups.leftovers == []


def test_a_dump_of_something_else_is_refused(
    postgres: Postgres, settings: Settings, backups: Backups
) -> None:
    """It restores well, and the release that runs here can't work with it."""
    with connect(settings, Role.ADMIN) as admin:
        with admin.transaction():
            admin.execute("UPDATE schema_migrations SET sha256 = 'x' WHERE version = 1")
        backups.make()
    done = backups.run("restore", "latest", "--yes")
    assert done.code == 1
    assert "the restored schema could not be brought up to date" in done.err
    assert "the database was made with a different 0001_" in done.err
    assert databases(postgres, settings) == set()


def test_a_dump_of_an_earlier_release_is_migrated(settings: Settings, backups: Backups) -> None:
    with connect(settings, Role.ADMIN) as admin:
        admin.execute("DROP SCHEMA public CASCADE")
        admin.execute("CREATE SCHEMA public")
        migrate.migrate(admin, migrate.packaged()[:1])
        admin.execute("INSERT INTO users (username) VALUES ('anna')")
    backups.make()
    done = backups.run("restore", "latest", "--yes")
    assert done.code == 0, done.err
    assert "1 users, 0 keys, schema 1" in done.out
    with connect(settings, Role.ADMIN) as admin:
        assert admin.execute("SELECT count(*) FROM llama_requests").fetchone() == (0,)
    assert initialise(settings) == []


def test_killed_in_the_middle(postgres: Postgres, settings: Settings, backups: Backups) -> None:
    add(settings, "anna")
    backups.make()
    child = backups.start("restore", "latest", "--yes")
    deadline = time.monotonic() + 30
    while not databases(postgres, settings):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert names(settings) == ["anna"]
    done = backups.run("restore", "latest", "--yes")
    assert done.code == 0, done.err
    assert len(databases(postgres, settings)) == 1


def test_a_rehearsal_changes_nothing(
    postgres: Postgres, settings: Settings, backups: Backups
) -> None:
    add(settings, "anna")
    file = backups.make()
    add(settings, "ben")
    done = backups.run("restore-test", "latest")
    assert done.code == 0, done.err
    assert f"{file} can be restored: 1 users, 1 keys" in done.out
    assert names(settings) == ["anna", "ben"]
    assert databases(postgres, settings) == set()


def test_another_server_with_roles_of_other_names(
    settings: Settings, backups: Backups, tmp_path: Path
) -> None:
    add(settings, "anna")
    file = backups.folder / backups.make()
    with running_postgres() as other:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        there = other.settings("another")
        restored = backups_of(other, there, elsewhere)
        refused = restored.run("restore", str(file), "--yes")
        assert refused.code == 1
        assert "no role another_admin and no role another_proxy" in refused.err
        assert "Deploy first" in refused.err
        provision.provision(there)
        done = restored.run("restore", str(file), "--yes")
        assert done.code == 0, done.err
        assert names(there) == ["anna"]
        assert provision.provision(there) + initialise(there) == []
        connect(there, Role.PROXY).close()


def test_into_a_server_without_the_database(
    postgres: Postgres, settings: Settings, backups: Backups
) -> None:
    add(settings, "anna")
    backups.make()
    with postgres.connect() as superuser:
        superuser.execute(f'DROP DATABASE "{settings.postgres_db}" WITH (FORCE)'.encode())
    done = backups.run("restore", "latest", "--yes")
    assert done.code == 0, done.err
    assert names(settings) == ["anna"]
    assert databases(postgres, settings) == set()


def test_a_file_that_is_not_there(backups: Backups) -> None:
    done = backups.run("restore", "no-such.dump", "--yes")
    assert done.code == 1
    assert "`llamakit backups` lists those there are" in done.err
    done = backups.run("restore-test", "latest")
    assert "there is no backup" in done.err
