"""Connections to Postgres, and what went wrong with one in words for people."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import psycopg

from .settings import Settings, no_example

CONNECT_TIMEOUT_SECONDS = 5
_BREAK_SECONDS = 1.0


class DatabaseError(Exception):
    """The database can't be used. The text is one line: what was found and what to do."""


class SchemaError(DatabaseError):
    """The database's schema is older than this release needs."""


class Role(Enum):
    """As whom to connect."""

    PROXY = "proxy"
    """Serves requests: reads keys, adds rows to the request log, leases from limits, no more."""
    ADMIN = "admin"
    """Owns the database: migrations, users, usage."""
    SUPERUSER = "superuser"
    """Owns the cluster; only to create the other two and the database."""


@dataclass(frozen=True, slots=True)
class _Account:
    """Where a role's name and password come from."""

    user: str
    variable: str
    secret: str


def role_name(settings: Settings, role: Role) -> str:
    """The name of the database role."""
    return _account(settings, role).user


def password(settings: Settings, role: Role) -> str:
    """The role's password: its environment variable, else its secret file.

    Raises SettingsError when there is neither, or when it is one that everyone knows.
    """
    account = _account(settings, role)
    given = os.environ.get(account.variable)
    return no_example(given, account.variable) if given else settings.secret(account.secret)


def parameters(
    settings: Settings, role: Role, *, application: str, statement_timeout_seconds: float = 30
) -> dict[str, Any]:
    """Keyword arguments for ``psycopg.connect`` and its async sister.

    Every session has a fixed search_path, UTC, and no statement or lock wait without an end.
    """
    session = {
        "search_path": "public",
        "timezone": "UTC",
        "statement_timeout": f"{statement_timeout_seconds * 1000:.0f}",
        "lock_timeout": "10000",
        "idle_in_transaction_session_timeout": "60000",
        "client_min_messages": "warning",
    }
    return {
        "host": settings.postgres_host,
        "port": settings.postgres_port,
        "dbname": "postgres" if role is Role.SUPERUSER else settings.postgres_db,
        "user": role_name(settings, role),
        "password": password(settings, role),
        "sslmode": settings.postgres_sslmode,
        "application_name": application,
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        # A server that vanished without a word is noticed in seconds, not in hours.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "autocommit": True,
    }


def connect(
    settings: Settings,
    role: Role,
    *,
    dbname: str | None = None,
    socket_dir: Path | None = None,
    statement_timeout_seconds: float = 30,
) -> psycopg.Connection:
    """A connection for a command, by TCP or through the server's socket in ``socket_dir``.

    Raises DatabaseError or SettingsError.
    """
    arguments = parameters(
        settings,
        role,
        application="llamakit",
        statement_timeout_seconds=statement_timeout_seconds,
    )
    if dbname is not None:
        arguments["dbname"] = dbname
    with ExitStack() as stack:
        if socket_dir is not None:
            arguments["host"] = stack.enter_context(_short_name(socket_dir))
        try:
            return psycopg.connect(**arguments)
        except psycopg.OperationalError as error:
            raise DatabaseError(explain_refusal(error, settings, role, socket_dir)) from None


@contextmanager
def _short_name(folder: Path) -> Iterator[str]:
    """Another name for a folder, because a socket's whole path may have 107 bytes at most."""
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DatabaseError(
            f"the folder {folder} of Postgres's socket can't be opened: {error.strerror}; "
            "run `./console.sh start`, which makes it"
        ) from None
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


async def connect_async(settings: Settings, *, application: str) -> psycopg.AsyncConnection:
    """A connection of the proxy's for one task. Raises DatabaseError or SettingsError."""
    arguments = parameters(
        settings, Role.PROXY, application=application, statement_timeout_seconds=5
    )
    try:
        return await psycopg.AsyncConnection.connect(**arguments)
    except psycopg.OperationalError as error:
        raise DatabaseError(explain_refusal(error, settings, Role.PROXY)) from None


@contextmanager
def broken_after(connection: psycopg.AsyncConnection, seconds: float) -> Iterator[None]:
    """Break the connection when the block takes longer: what waits on it fails at once.

    Cancelling a task instead would have psycopg wait for the server to confirm that it stopped,
    and a server that hangs never does.
    """
    handle = asyncio.get_running_loop().call_later(seconds, break_off, connection)
    try:
        yield
    finally:
        handle.cancel()


def break_off(connection: psycopg.AsyncConnection) -> None:
    """Shut the connection's socket, whatever the server does."""
    if connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as shared, suppress(OSError):
        shared.shutdown(socket.SHUT_RDWR)


async def end(
    task: asyncio.Task[None],
    connection: Callable[[], psycopg.AsyncConnection | None],
    seconds: float,
) -> None:
    """Wait for a task that was told to end. When it does not, in time, its connection is broken
    off, at which whatever hangs fails; and when even that does not end it, it is cancelled."""
    done, _ = await asyncio.wait({task}, timeout=seconds)
    hanging = None if done else connection()
    if hanging is not None:
        break_off(hanging)
        done, _ = await asyncio.wait({task}, timeout=_BREAK_SECONDS)
    if not done:
        task.cancel()
        await asyncio.wait({task})


def explain_refusal(
    error: psycopg.OperationalError,
    settings: Settings,
    role: Role,
    socket_dir: Path | None = None,
) -> str:
    """Why a connection could not be made, in one line that ends with what to do.

    libpq gives no error code for a refused connection, only the server's words, which are English
    unless its lc_messages says otherwise; then they are passed on as they are.
    """
    account = _account(settings, role)
    place = f"{socket_dir or settings.postgres_host}:{settings.postgres_port}"
    text = " ".join(str(error).split())
    if "password authentication failed" in text and role is Role.SUPERUSER:
        return (
            f"Postgres at {place} refuses {account.user}: its password is not the one in "
            f"{account.variable} or the secret {account.secret}; run `./console.sh start` "
            "(or provision-db with --socket-dir), which sets it without the old one"
        )
    if "password authentication failed" in text:
        return (
            f"Postgres at {place} refuses {account.user}: there is no such role, or its password "
            f"is not the one in {account.variable} or the secret {account.secret}; "
            "run `./console.sh start` (or provision-db), which sets both right"
        )
    if f'database "{settings.postgres_db}" does not exist' in text:
        return (
            f"Postgres at {place} has no database {settings.postgres_db}; "
            "run `./console.sh start` (or provision-db) to create it"
        )
    if f'role "{account.user}" does not exist' in text:
        return (
            f"Postgres at {place} has no role {account.user}; "
            "run `./console.sh start` (or provision-db) to create it"
        )
    return (
        f"can't connect to Postgres at {place} as {account.user}: {_last_words(text)}; "
        "run `./console.sh status` to see whether it runs, or check POSTGRES_AUTH_HOST and _PORT"
    )


def explain_failure(error: psycopg.Error) -> str:
    """Why a statement failed, in one line. Holds no parameter of the statement."""
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
        return "the database has no llamakit schema yet; run `./console.sh start` (or init-db)"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        reason = error.diag.message_primary or "permission denied"
        return (
            f"the database role lacks a right: {reason}; run init-db as the role that owns the "
            "database (POSTGRES_AUTH_ADMIN_USER), which sets the proxy's rights again"
        )
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return "Postgres took too long to answer; try again when it is less busy"
    reason = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    return f"Postgres failed: {reason}"


def _account(settings: Settings, role: Role) -> _Account:
    proxy = _Account(settings.postgres_user, "POSTGRES_AUTH_PASSWORD", "postgres_proxy_password")
    if role is Role.SUPERUSER:
        return _Account("postgres", "POSTGRES_SUPERUSER_PASSWORD", "postgres_superuser_password")
    if role is Role.PROXY or settings.postgres_admin_user == settings.postgres_user:
        return proxy
    return _Account(
        settings.postgres_admin_user, "POSTGRES_AUTH_ADMIN_PASSWORD", "postgres_admin_password"
    )


def _last_words(text: str) -> str:
    """libpq's own reason, without the addresses it tried before it or the hints after it."""
    reason = text.rpartition("failed: ")[2].removeprefix("FATAL: ").strip()
    return reason.partition("\n")[0][:200] or "no reason given"
