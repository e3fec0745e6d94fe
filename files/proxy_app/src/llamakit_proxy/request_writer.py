"""Rows into llama_requests in batches, none twice, and the upkeep of that table."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import psycopg
from psycopg import sql

from . import wire
from .database import DatabaseError, break_off, broken_after, connect_async, explain_failure
from .settings import Settings, SettingsError

_WRITE_SECONDS = 10.0
_DAYS_AHEAD = 7
_UPKEEP_EVERY_SECONDS = 3600.0
# What there is to drop is dropped in steps of a moment each, and some of them at a time.
_DROPS = 10
_MORE_DROPS_AFTER_SECONDS = 10.0
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
_PLAIN_LENGTH = _TEXT_LENGTH + sum(len(name) for name in _COLUMNS)
"""No line up to this long has a text that is too long."""
# A row that is there already, because a confirmation was lost or a crash came in between, stays as
# it is. In one order, so that two writers with rows in common never wait for each other. What a
# release before or after this one has spooled may lack columns or have others.
_INSERT = sql.SQL(
    "INSERT INTO llama_requests ({columns}) SELECT {columns}"
    " FROM json_populate_recordset(NULL::llama_requests, %s::json) ORDER BY request_id"
    " ON CONFLICT DO NOTHING"
).format(columns=sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)))


class DatabaseAwayError(Exception):
    """Nothing can be written now; how much of it was written is not known."""


def encode(row: RequestRow) -> bytes:
    """A row as one line of JSON, as it is spooled and as Postgres takes it.

    No NUL, no lone surrogate, no text without an end. ValueError or OverflowError for a number that
    has no such form.
    """
    created_at, *others = _columns_of(row)
    moment = _EPOCH + timedelta(seconds=created_at)
    written = moment.isoformat(timespec="microseconds")
    line = wire.encode_strictly(dict(zip(_COLUMNS, (written, *others), strict=True)))
    if len(line) > _PLAIN_LENGTH or b"\\u" in line:
        values = (written, *map(_clean, others))
        line = wire.encode_strictly(dict(zip(_COLUMNS, values, strict=True)))
    return line


class RequestWriter:
    """A connection of its own, made when there is something to do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.AsyncConnection | None = None
        self._upkeep_due = 0.0
        self._made_at = time.monotonic()

    async def write(self, rows: Sequence[bytes]) -> int:
        """Write these rows, as ``encode`` gives them; how many Postgres refused.

        DatabaseAwayError: write them again later. Those that were written are not written twice.
        """
        try:
            connection = await self._connect()
            return await self._write(connection, rows)
        except (DatabaseError, SettingsError) as error:
            raise DatabaseAwayError(str(error)) from None
        except psycopg.Error as error:
            await self.close()
            raise DatabaseAwayError(explain_failure(error)) from None

    async def keep_up(self) -> int:
        """The upkeep that is due though there is nothing to write. As ``write`` of no rows."""
        if time.monotonic() < max(self._upkeep_due, self._made_at + _UPKEEP_EVERY_SECONDS):
            return 0
        return await self.write(())

    async def close(self) -> None:
        """Give up the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def break_off(self) -> None:
        """Make a write that hangs fail at once."""
        if self._connection is not None:
            break_off(self._connection)

    async def _write(self, connection: psycopg.AsyncConnection, rows: Sequence[bytes]) -> int:
        """A batch that holds a row Postgres refuses is written in halves, until that is alone."""
        refused = 0
        batches = [rows] if rows else []
        while batches:
            batch = batches.pop()
            try:
                with broken_after(connection, _WRITE_SECONDS):
                    await connection.execute(_INSERT, (f"[{b','.join(batch).decode()}]",))
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                if len(batch) > 1:
                    middle = len(batch) // 2
                    batches += [batch[middle:], batch[:middle]]
                else:
                    tell_refused(str(error.sqlstate), json.loads(batch[0]).get("request_id"))
                    refused += 1
        return refused

    async def _connect(self) -> psycopg.AsyncConnection:
        connection = self._connection
        if connection is None or connection.closed:
            connection = await connect_async(self._settings, application="llamakit-proxy log")
            self._connection = connection
        if time.monotonic() >= self._upkeep_due:
            self._upkeep_due = time.monotonic() + _UPKEEP_EVERY_SECONDS
            await self._keep_up(connection)
        return connection

    async def _keep_up(self, connection: psycopg.AsyncConnection) -> None:
        """Partitions for the days to come, without which rows go to the default partition; and an
        end to rows that are too old. What fails is tried again the next time."""
        try:
            with broken_after(connection, _WRITE_SECONDS):
                await connection.execute(
                    "SELECT * FROM ensure_request_partitions(%s)", (_DAYS_AHEAD,)
                )
        except psycopg.Error as error:
            _log.warning("request log: no partitions made ahead: %s", explain_failure(error))
        try:
            for _ in range(_DROPS):
                with broken_after(connection, _WRITE_SECONDS):
                    cursor = await connection.execute("SELECT drop_old_requests()")
                    row = await cursor.fetchone()
                if row is None or row[0] is None:
                    return
                _log.info("request log: rows older than the retention left %s", row[0])
            self._upkeep_due = time.monotonic() + _MORE_DROPS_AFTER_SECONDS
        except psycopg.Error as error:
            _log.warning("request log: old rows stay for now: %s", explain_failure(error))


def tell_refused(reason: str, request_id: object) -> None:
    """Log that a row is lost, and not what is in it."""
    _log.error("request log: a row was refused (%s): request %s", reason, ascii(request_id)[:80])


def _clean(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value[:_TEXT_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-8", "replace").decode()
