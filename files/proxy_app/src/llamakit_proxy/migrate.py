"""The schema, by numbered SQL files that are each applied once, in order, in a transaction.

A migration only adds: tables, columns that are nullable or have a default, indexes, functions. So a
release runs on the schema of any later one, which is what a rollback and the moment of a switch
need: the database is never migrated back. What an old release reads or writes (a table, a column,
its type, the meaning of its values, a right of the proxy's) may go only in a migration of a release
to whose predecessor nobody rolls back any more, and the changelog says so.

Who meets which schema: *newer* than the release: all go on, the proxy and init-db say so, and
init-db takes no right away. *Older*: the proxy does not start, a reload falls back to
the worker that serves, and the users' commands refuse; init-db, which every deployment runs before
it switches, brings it up to date. *Other text* under the same number: init-db and the users'
commands refuse.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg

from .database import DatabaseError, SchemaError, explain_failure

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# Any fixed number will do; it only has to be the same in every release.
_LOCK = 0x6C6C616D61
_TURN_SECONDS = 120
_TABLE_SECONDS = 15
APPLIED = "SELECT version, name, sha256 FROM public.schema_migrations ORDER BY version"
OLDER = (
    "the database's schema is older than this release; run `./console.sh start` (or the playbook "
    "site.yml, or init-db)"
)
_TABLE = """
CREATE TABLE IF NOT EXISTS public.schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the migrations folder."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Of the file's text, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def packaged() -> list[Migration]:
    """The migrations this release brings, in order."""
    found = []
    for file in resources.files(__package__).joinpath("migrations").iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match:
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), file.name.removesuffix(".sql"), text))
    found.sort(key=lambda migration: migration.version)
    versions = [migration.version for migration in found]
    if not found or versions != list(range(1, len(found) + 1)):
        raise DatabaseError(f"the packaged migrations are numbered {versions}; reinstall the proxy")
    return found


@contextmanager
def alone(connection: psycopg.Connection) -> Iterator[None]:
    """Hold the lock that lets one place at a time change the schema; the others wait.

    Statements of this session may take as long as they need from here on, but give up when a
    table they want stays locked: everybody who wants the table after them waits behind them.
    """
    try:
        _set(connection, "statement_timeout", "0")
        _set(connection, "lock_timeout", f"{_TURN_SECONDS}s")
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    except psycopg.errors.LockNotAvailable:
        raise DatabaseError(
            f"another init-db has been running for {_TURN_SECONDS} s; wait for it to end"
        ) from None
    try:
        _set(connection, "lock_timeout", f"{_TABLE_SECONDS}s")
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def migrate(connection: psycopg.Connection, migrations: Sequence[Migration]) -> list[str]:
    """Bring the database to the last migration; the names of those applied now.

    To be called under ``alone``. Raises DatabaseError, after which the database is as the last
    migration that succeeded left it.
    """
    try:
        connection.execute(_TABLE)
    except psycopg.Error as error:
        raise DatabaseError(explain_failure(error)) from None
    applied = []
    for migration in _pending(connection, migrations):
        try:
            with connection.transaction():
                # A constant of this package: what the file says is the statement, parameters none.
                connection.execute(migration.sql.encode())
                connection.execute(
                    "INSERT INTO public.schema_migrations (version, name, sha256)"
                    " VALUES (%s, %s, %s)",
                    (migration.version, migration.name, migration.sha256),
                )
        except psycopg.Error as error:
            raise DatabaseError(
                f"migration {migration.name} failed and left nothing behind: "
                f"{explain_failure(error)}"
            ) from None
        applied.append(migration.name)
    return applied


def check(connection: psycopg.Connection, migrations: Sequence[Migration]) -> None:
    """SchemaError unless the database has these migrations; it may have more."""
    if _pending(connection, migrations):
        raise SchemaError(OLDER)


def is_newer(connection: psycopg.Connection, migrations: Sequence[Migration]) -> str | None:
    """What to say when the database is a later release's; None when it is not."""
    rows = _applied(connection)
    return newer(rows, migrations) if len(rows) > len(migrations) else None


def newer(rows: Sequence[tuple[Any, ...]], migrations: Sequence[Migration]) -> str:
    """What to say when ``rows``, those of APPLIED, are more than ``migrations``."""
    return (
        f"the database's schema is newer ({rows[-1][1]}) than this release (up to "
        f"{migrations[-1].name}); that is fine after a rollback, else deploy the later release"
    )


def _pending(
    connection: psycopg.Connection, migrations: Sequence[Migration]
) -> Sequence[Migration]:
    """The migrations still to apply, after making sure that the applied ones are the same."""
    rows = _applied(connection)
    for (version, name, sha256), migration in zip(rows, migrations, strict=False):
        if (version, sha256) != (migration.version, migration.sha256):
            raise DatabaseError(
                f"the database was made with a different {name} than this release's "
                f"{migration.name} (sha256 {sha256[:12]}, here {migration.sha256[:12]}); restore "
                "the file: a change of the schema is always a new migration"
            )
    return migrations[len(rows) :]


def _applied(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """What APPLIED gives."""
    try:
        return connection.execute(APPLIED).fetchall()
    except psycopg.Error as error:
        raise DatabaseError(explain_failure(error)) from None


def _set(connection: psycopg.Connection, name: str, value: str) -> None:
    connection.execute("SELECT set_config(%s, %s, false)", (name, value))
