"""The schema's migrations, on a real PostgreSQL."""

import concurrent.futures
import dataclasses

import psycopg
import pytest

from llamakit_proxy import migrate, provision, schema
from llamakit_proxy.database import DatabaseError, Role, connect, role_name
from llamakit_proxy.settings import Settings
from support.postgres import Postgres


@pytest.fixture
def empty(postgres: Postgres, request: pytest.FixtureRequest) -> Settings:
    """Roles and a database without a schema."""
    settings = postgres.settings(f"empty{abs(hash(request.node.name)) % 10**9}")
    provision.provision(settings)
    return settings


def applied(settings: Settings) -> list[tuple[int, str]]:
    with connect(settings, Role.ADMIN) as connection:
        return connection.execute(
            "SELECT version, name FROM schema_migrations ORDER BY version"
        ).fetchall()


def test_the_packaged_migrations_are_numbered_without_a_gap() -> None:
    found = migrate.packaged()
    assert [migration.version for migration in found] == list(range(1, len(found) + 1))


def test_a_second_run_changes_nothing(empty: Settings) -> None:
    first = schema.initialise(empty)
    assert [line for line in first if line.startswith("applied")] == [
        f"applied {migration.name}" for migration in migrate.packaged()
    ]
    assert schema.initialise(empty) == []


def test_two_at_once_apply_everything_once(empty: Settings) -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda _: schema.initialise(empty), range(6)))
    lines = [line for run in runs for line in run]
    assert len(lines) == len(set(lines))
    assert len([line for line in lines if line.startswith("applied")]) == len(migrate.packaged())
    assert [version for version, _ in applied(empty)] == [m.version for m in migrate.packaged()]
    assert schema.initialise(empty) == []


def test_a_failing_migration_leaves_nothing_and_can_be_repeated(empty: Settings) -> None:
    good = migrate.packaged()
    bad = migrate.Migration(
        len(good) + 1, f"{len(good) + 1:04}_bad", "CREATE TABLE half (); SELECT 1 / 0;"
    )
    with connect(empty, Role.ADMIN) as connection:
        with pytest.raises(DatabaseError, match=r"_bad failed.*division by zero"):
            migrate.migrate(connection, [*good, bad])
        assert len(applied(empty)) == len(good)
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)
        mended = dataclasses.replace(bad, sql="CREATE TABLE half ();")
        assert migrate.migrate(connection, [*good, mended]) == [bad.name]


def test_a_changed_old_migration_is_noticed(empty: Settings) -> None:
    schema.initialise(empty)
    changed = migrate.packaged()
    changed[0] = dataclasses.replace(changed[0], sql=changed[0].sql + "\n-- another word")
    with connect(empty, Role.ADMIN) as connection:
        with pytest.raises(DatabaseError, match=r"different 0001_users_and_keys.*new migration"):
            migrate.migrate(connection, changed)
        with pytest.raises(DatabaseError, match=r"different 0001_users_and_keys"):
            migrate.check(connection, changed)


def test_a_newer_database_serves_an_older_release(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback."""
    everything = migrate.packaged()
    later = migrate.Migration(
        len(everything) + 1,
        f"{len(everything) + 1:04}_later",
        "ALTER TABLE users ADD COLUMN note text",
    )
    monkeypatch.setattr(migrate, "packaged", lambda: [*everything, later])
    schema.initialise(empty)
    with connect(empty, Role.ADMIN) as connection:
        proxy = role_name(empty, Role.PROXY)
        connection.execute(f"GRANT UPDATE (note) ON users TO {proxy}")
    monkeypatch.setattr(migrate, "packaged", lambda: everything)
    with connect(empty, Role.ADMIN) as connection:
        migrate.check(connection, everything)
        assert migrate.migrate(connection, everything) == []
    assert schema.initialise(empty) == []
    assert f"newer ({later.name})" in (schema.is_newer(empty) or "")
    # The later release finds what it left.
    monkeypatch.setattr(migrate, "packaged", lambda: [*everything, later])
    assert schema.is_newer(empty) is None
    with connect(empty, Role.ADMIN) as connection:
        right = "SELECT has_column_privilege(%s, 'users', 'note', 'UPDATE')"
        assert connection.execute(right, (proxy,)).fetchone() == (True,)


def test_an_older_or_missing_schema_is_noticed(empty: Settings) -> None:
    with connect(empty, Role.ADMIN) as connection:
        with pytest.raises(DatabaseError, match=r"no llamakit schema yet.*init-db"):
            migrate.check(connection, migrate.packaged())
        migrate.migrate(connection, migrate.packaged()[:-1])
        with pytest.raises(DatabaseError, match=r"older than this release.*init-db"):
            migrate.check(connection, migrate.packaged())
        assert migrate.migrate(connection, migrate.packaged()) == [migrate.packaged()[-1].name]
        migrate.check(connection, migrate.packaged())


def test_the_schema_also_stands_in_a_database_of_one_role(postgres: Postgres) -> None:
    """An external Postgres often gives one role and no superuser."""
    with postgres.connect() as superuser:
        superuser.execute("CREATE ROLE lone LOGIN PASSWORD 'lone-password'")
        superuser.execute("CREATE DATABASE lone OWNER lone")
    settings = postgres.settings("lone", POSTGRES_AUTH_USER="lone", POSTGRES_AUTH_ADMIN_USER="lone")
    (settings.secrets_dir / "postgres_proxy_password").write_text("lone-password")
    assert schema.shares_the_owners_role(settings)
    assert schema.initialise(settings)
    assert schema.initialise(settings) == []
    with pytest.raises(DatabaseError, match="both 'lone'"):
        provision.provision(settings)


def test_partitions_are_made_ahead_and_rows_in_the_default_one_move(
    settings: Settings, admin: psycopg.Connection
) -> None:
    def count(table: str) -> int:
        return len(admin.execute(b"SELECT FROM " + table.encode()).fetchall())

    for day in ("3 days", "20 days", "-400 days"):
        admin.execute(
            "INSERT INTO llama_requests (created_at, username, path, status_code, duration_ms)"
            " VALUES (now() + %s::interval, 'alice', '/v1/models', 200, 1)",
            (day,),
        )
    assert count("llama_requests_default") == 2
    made = admin.execute("SELECT * FROM ensure_request_partitions(25)").fetchall()
    assert len(made) == 25 - 7
    assert count("llama_requests_default") == 1
    assert count("llama_requests") == 3
    assert admin.execute("SELECT * FROM ensure_request_partitions(25)").fetchall() == []
    assert admin.execute("SELECT count(*) FROM ensure_request_partitions(100000)").fetchone() == (
        6,
    )
