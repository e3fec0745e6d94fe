"""Keeps a process's key cache true to the database, over one connection owned by one task.

Look-ups, changes and last uses all go through this task, one statement after the other: what a
later statement sees is never older than what an earlier one saw, so nothing in flight can put a
revoked key back.

Changes are noticed by the version in key_epoch, which grows with each transaction that touches
users or keys. A notification wakes the task at once, and it looks every POLL_SECONDS besides: a
notification that gets lost costs that long, and no more.
"""

import asyncio
import contextlib
import logging
from collections import deque
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import psycopg

from . import migrate
from .database import (
    DatabaseError,
    SchemaError,
    broken_after,
    connect_async,
    end,
    explain_failure,
)
from .identity import Identity
from .key_cache import CachedKey, KeyCache
from .settings import Settings, SettingsError

POLL_SECONDS = 0.4
_ROUND_SECONDS = 3.0
_USES_SECONDS = 0.5
_RETRY_SECONDS = (0.1, 2.0)
_BATCH = 500
_MAX_ASKED = 10_000
_MAX_CHANGES = 1_000
_NOTHING = -1  # lower than any version, so that every key is looked up again

_EPOCH = "SELECT version, deleted FROM key_epoch"
# One may come twice: telling them apart would mean to look at all before the limit ends it.
_CHANGES = """
SELECT public_id FROM api_keys WHERE version > %(seen)s
UNION ALL
SELECT public_id FROM users JOIN api_keys ON user_id = users.id WHERE users.version > %(seen)s
LIMIT %(limit)s
"""
_KEYS = """
SELECT public_id, sha256, status = 'active' AND revoked_at IS NULL,
       extract(epoch FROM expires_at)::float8,
       users.id, username, allowed_models, scopes, weight, priority = 'batch',
       rate_limit, rate_window_seconds,
       token_limit, token_window_seconds, max_concurrent, day_budget, month_budget
FROM api_keys JOIN users ON users.id = user_id WHERE public_id = ANY(%s)
"""
# Rows another process is writing are skipped: it writes about the same time.
_USES = """
WITH free AS (
    SELECT public_id FROM api_keys WHERE public_id = ANY(%(ids)s)
    ORDER BY public_id FOR UPDATE SKIP LOCKED
)
UPDATE api_keys SET last_used_at = used.at
FROM free JOIN unnest(%(ids)s::text[], %(times)s::timestamptz[]) AS used (public_id, at)
     USING (public_id)
WHERE api_keys.public_id = free.public_id AND (last_used_at IS NULL OR last_used_at < used.at)
"""

_log = logging.getLogger(__name__)


class KeyFeed:
    """The task between a KeyCache and Postgres."""

    def __init__(self, settings: Settings, cache: KeyCache) -> None:
        self._settings = settings
        self._cache = cache
        self._connected = False
        self._closing = False
        self.answered = asyncio.Event()
        """Set once the database is followed, or can't be: see ``refusal``."""
        self._wake = asyncio.Event()
        self._first_try = asyncio.Event()
        self._last_trouble = ""
        self._refusal: SchemaError | None = None
        self._connection: psycopg.AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._seen = _NOTHING
        self._asked: dict[str, asyncio.Future[bool]] = {}
        # Keys to confirm although nobody asks for them now: should Postgres go away, the cache is
        # all there is, and it must not hold a key that was revoked before.
        self._doubted: deque[str] = deque()
        self._uses: dict[str, float] = {}
        self._uses_due = 0.0

    @property
    def connected(self) -> bool:
        """Whether the cache follows the database now."""
        return self._connected

    @property
    def refusal(self) -> SchemaError | None:
        """Why the database at hand can't be followed at all, when that is so."""
        return self._refusal

    async def start(self, patience_seconds: float) -> None:
        """Start, and wait until the first attempt to connect has succeeded or failed."""
        self._task = asyncio.create_task(self._run(), name="key feed")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await self._first_try.wait()

    async def close(self) -> None:
        """Write the last uses and stop, within a few seconds."""
        if self._task is None:
            return
        self._closing = True
        self._wake.set()
        await end(self._task, lambda: self._connection, _ROUND_SECONDS)

    async def ask(self, public_id: str) -> bool:
        """Have the cache be sure about an id; False when the database can't be asked now."""
        if not self._connected:
            return False
        answer = self._asked.get(public_id)
        if answer is None:
            if len(self._asked) >= _MAX_ASKED:
                return False
            answer = self._asked[public_id] = asyncio.get_running_loop().create_future()
            self._wake.set()
        # One answer serves all who ask for the same id, so none of them may cancel it.
        return await asyncio.shield(answer)

    def note_use(self, public_id: str, at: float) -> None:
        """A key was used, ``at`` seconds since the epoch; written to the database in a while."""
        self._uses[public_id] = at

    async def _run(self) -> None:
        shortest, longest = _RETRY_SECONDS
        delay = shortest
        while not self._closing:
            was_connected = await self._session()
            delay = shortest if was_connected else min(delay * 2, longest)
            await self._rest(delay)

    async def _session(self) -> bool:
        """Connect and follow until the connection is lost; whether there was one."""
        trouble = ""
        try:
            connection = await connect_async(self._settings, application="llamakit-proxy keys")
            async with connection:
                self._connection = connection
                await self._follow(connection)
        except (DatabaseError, SettingsError) as error:
            trouble = str(error)
            if isinstance(error, SchemaError):
                self._refusal = error
                self.answered.set()
        except psycopg.Error as error:
            trouble = explain_failure(error)
        except Exception:
            # A mistake of ours must not leave revoked keys valid until the next start.
            _log.exception("keys: following the database failed, and starts again")
        finally:
            was_connected = self._connected
            self._connected = False
            self._connection = None
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_result(False)
            self._asked.clear()
            self._first_try.set()
        if trouble and trouble != self._last_trouble:
            _log.warning("keys: %s; keys in use go on, others are answered 503", trouble)
        self._last_trouble = trouble
        return was_connected

    async def _follow(self, connection: psycopg.AsyncConnection) -> None:
        connection.add_notify_handler(_ignore)  # that it arrived is all it says
        with broken_after(connection, _ROUND_SECONDS):
            await connection.execute("LISTEN llamakit_keys")
            await self._compare_schema(connection)
        # What was seen on another connection may be of another server, or from before a restore.
        self._seen = _NOTHING
        while True:
            with broken_after(connection, _ROUND_SECONDS):
                await self._sync(connection)
                await self._look_up(connection)
                await self._write_uses(connection)
            if not self._connected:
                self._connected = True
                self.answered.set()
                self._first_try.set()
                _log.info("keys: following the database")
            if self._closing and not self._uses:
                return
            if not (self._asked or self._doubted or self._closing):
                await self._rest(POLL_SECONDS, connection)

    async def _compare_schema(self, connection: psycopg.AsyncConnection) -> None:
        """SchemaError when it is older than this release; when it is newer, say so and go on."""
        rows = await (await connection.execute(migrate.APPLIED)).fetchall()
        self._refusal = None
        migrations = migrate.packaged()
        if len(rows) < len(migrations):
            raise SchemaError(migrate.OLDER)
        if len(rows) > len(migrations):
            _log.warning("%s", migrate.newer(rows, migrations))

    async def _sync(self, connection: psycopg.AsyncConnection) -> None:
        """Note which keys have to be looked up again."""
        row = await (await connection.execute(_EPOCH)).fetchone()
        if row is None:
            raise DatabaseError("the table key_epoch is empty; restore the database's backup")
        version, deleted = row
        if version == self._seen:
            return
        changed = None
        if deleted <= self._seen <= version:
            changed = await self._changes(connection)
        if changed is None:
            self._cache.doubt_all()
            self._doubted = deque(self._cache.key_ids())
        else:
            self._doubted.extendleft(filter(self._cache.doubt, changed))
        self._seen = version

    async def _changes(self, connection: psycopg.AsyncConnection) -> list[str] | None:
        """Public ids touched since the last look; None for too many to name."""
        values = {"seen": self._seen, "limit": _MAX_CHANGES + 1}
        rows = await (await connection.execute(_CHANGES, values)).fetchall()
        return None if len(rows) > _MAX_CHANGES else [public_id for (public_id,) in rows]

    async def _look_up(self, connection: psycopg.AsyncConnection) -> None:
        doubted = [self._doubted.popleft() for _ in range(min(len(self._doubted), _BATCH))]
        ids = [*islice(self._asked, _BATCH), *doubted]
        if not ids:
            return
        rows = await (await connection.execute(_KEYS, (ids,))).fetchall()
        found = {row[0]: _cached_key(row) for row in rows}
        for public_id in ids:
            self._cache.put(public_id, found.get(public_id))
            answer = self._asked.pop(public_id, None)
            if answer is not None and not answer.done():
                answer.set_result(True)

    async def _write_uses(self, connection: psycopg.AsyncConnection) -> None:
        now = asyncio.get_running_loop().time()
        if not self._uses or (now < self._uses_due and not self._closing):
            return
        self._uses_due = now + _USES_SECONDS
        uses = [self._uses.popitem() for _ in range(min(len(self._uses), _BATCH))]
        times = [datetime.fromtimestamp(at, UTC) for _, at in uses]
        try:
            await connection.execute(_USES, {"ids": [key for key, _ in uses], "times": times})
        except psycopg.Error as error:
            # Nice to have, and never a reason to stop following; a lost connection shows by itself.
            _log.warning("keys: the last uses were not written: %s", explain_failure(error))

    async def _rest(
        self, seconds: float, connection: psycopg.AsyncConnection | None = None
    ) -> None:
        """Wait until there is something to do, or the server says something, or time is up."""
        loop = asyncio.get_running_loop()
        descriptor = None if connection is None else connection.fileno()
        if descriptor is not None:
            loop.add_reader(descriptor, self._wake.set)
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            if descriptor is not None:
                loop.remove_reader(descriptor)
        self._wake.clear()


def _cached_key(row: tuple[Any, ...]) -> CachedKey:
    public_id, sha256, active, expires_at, user_id, username, models, scopes, *rest = row
    weight, batch, *limits = rest
    rate_limit, rate_window, token_limit, token_window, concurrent, day, month = limits
    identity = Identity(
        user_id=user_id,
        username=username,
        key_id=public_id,
        allowed_models=None if models is None else frozenset(models),
        rate_limit=rate_limit,
        rate_window_seconds=rate_window,
        expires_at=expires_at,
        scopes=frozenset(scopes),
        token_limit=token_limit,
        token_window_seconds=token_window,
        max_concurrent=concurrent,
        day_budget=day,
        month_budget=month,
        weight=weight,
        batch=batch,
    )
    return CachedKey(identity, active, bytes(sha256))


def _ignore(_: psycopg.Notify) -> None:
    pass
