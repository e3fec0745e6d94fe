"""Rows into llama_requests by COPY, each batch whole or not at all, and none twice."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import psycopg
from psycopg import sql

from .database import DatabaseError, break_off, broken_after, connect_async, explain_failure
from .settings import Settings, SettingsError

_WRITE_SECONDS = 10.0
_DAYS_AHEAD = 7
_PARTITIONS_EVERY_SECONDS = 3600.0
# Longer than anything of ours; a bound for what a client can have written.
_TEXT_LENGTH = 300

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestRow:
    """What is kept of one request. Prompts and answers are never part of it."""

    created_at: float
    """When the request arrived, seconds since the epoch."""
    username: str
    user_id: int
    key_id: str
    method: str
    path: str
    """The route's template, never the path as the client sent it."""
    model: str | None
    status_code: int
    duration_ms: float
    request_bytes: int
    response_bytes: int
    prompt_tokens: int | None
    completion_tokens: int | None
    stream: bool
    error_code: str | None
    request_id: str
    """Unique; made by the proxy."""
    ttft_ms: float | None
    """From arrival to the first token."""
    queue_ms: float | None
    client: str | None
    """The client's address."""


_COLUMNS = [field.name for field in fields(RequestRow)]
_columns_of = attrgetter(*_COLUMNS)
_COPY = sql.SQL("COPY llama_requests ({}) FROM STDIN").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
)


class DatabaseAwayError(Exception):
    """Nothing can be written now; the rows not written yet are still with the writer."""


class RequestWriter:
    """A connection of its own, made when there is something to write."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.AsyncConnection | None = None
        self._partitions_due = 0.0
        # Batches to write, the next one last. A batch that holds a row Postgres refuses is
        # written in halves, until that row is alone.
        self._batches: list[Sequence[RequestRow]] = []
        # Whether the last batch may be in the database although its confirmation was lost.
        self._in_doubt = False

    @property
    def pending(self) -> int:
        """Rows taken and not written yet."""
        return sum(map(len, self._batches))

    async def write(self, rows: Sequence[RequestRow] = ()) -> int:
        """Write these rows and those left from before; how many Postgres refused.

        DatabaseAwayError: call again, later and with no rows, until it returns.
        """
        if rows:
            self._batches.insert(0, rows)
        refused = 0
        try:
            connection = await self._connect()
            while self._batches:
                refused += await self._write_last_batch(connection)
        except (DatabaseError, SettingsError) as error:
            raise DatabaseAwayError(str(error)) from None
        except psycopg.Error as error:
            await self._disconnect()
            raise DatabaseAwayError(explain_failure(error)) from None
        return refused

    async def close(self) -> int:
        """Give up the connection and the rows not written; how many those were."""
        lost = self.pending
        self._batches.clear()
        await self._disconnect()
        return lost

    def break_off(self) -> None:
        """Make a write that hangs fail at once."""
        if self._connection is not None:
            break_off(self._connection)

    async def _write_last_batch(self, connection: psycopg.AsyncConnection) -> int:
        batch = self._batches[-1]
        try:
            with broken_after(connection, _WRITE_SECONDS):
                async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                    for row in batch:
                        await copy.write_row(_values(row))
        except Exception as error:
            if not _is_the_rows_fault(error):
                self._in_doubt |= isinstance(error, psycopg.OperationalError)
                raise
            if not (self._in_doubt and isinstance(error, psycopg.errors.UniqueViolation)):
                return self._split_last_batch(error)
            # The same batch as before, and it is there: only the confirmation had got lost.
        self._batches.pop()
        self._in_doubt = False
        return 0

    def _split_last_batch(self, error: Exception) -> int:
        """Halve the batch that failed; 1 when it was a single row, which is given up."""
        batch = self._batches.pop()
        self._in_doubt = False
        if len(batch) > 1:
            middle = len(batch) // 2
            self._batches += [batch[middle:], batch[:middle]]
            return 0
        state = error.sqlstate if isinstance(error, psycopg.Error) else type(error).__name__
        _log.error("request log: a row was refused (%s): request %s", state, _id(batch[0]))
        return 1

    async def _connect(self) -> psycopg.AsyncConnection:
        connection = self._connection
        if connection is None or connection.closed:
            connection = await connect_async(self._settings, application="llamakit-proxy log")
            self._connection = connection
        if time.monotonic() >= self._partitions_due:
            self._partitions_due = time.monotonic() + _PARTITIONS_EVERY_SECONDS
            await self._make_partitions(connection)
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _make_partitions(self, connection: psycopg.AsyncConnection) -> None:
        """Partitions for the days to come. Without them rows go to the default partition."""
        try:
            with broken_after(connection, _WRITE_SECONDS):
                await connection.execute(
                    "SELECT * FROM ensure_request_partitions(%s)", (_DAYS_AHEAD,)
                )
        except psycopg.Error as error:
            _log.warning("request log: no partitions made ahead: %s", explain_failure(error))


def _is_the_rows_fault(error: Exception) -> bool:
    """Whether other rows could still be written: the trouble is neither the connection nor ours."""
    if not isinstance(error, psycopg.Error):
        return True  # a value that has no form in Postgres, noticed while converting it
    by_the_driver = isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
    return by_the_driver or isinstance(error, psycopg.DataError | psycopg.IntegrityError)


def _values(row: RequestRow) -> tuple[object, ...]:
    """A row as Postgres takes it: no NUL, no lone surrogate, no text without an end."""
    created_at, *others = _columns_of(row)
    return (_EPOCH + timedelta(seconds=created_at), *map(_clean, others))


def _clean(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value[:_TEXT_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-8", "replace").decode()


def _id(row: RequestRow) -> str:
    return ascii(row.request_id)[:80]
