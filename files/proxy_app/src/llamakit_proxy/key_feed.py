"""Keeps a process's key cache true to the database, over one connection owned by one task.

Look-ups, changes and last uses all go through this task, one statement after the other: what a
later statement sees is never older than what an earlier one saw, so nothing in flight can put a
revoked key back.

Changes are noticed by the version in key_epoch, which grows with each transaction that touches
users or keys. A notification wakes the task at once, and it looks every POLL_SECONDS besides: a
notification that gets lost costs that long, and no more.
"""

import asyncio
import logging
from collections import deque
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import psycopg

from . import migrate
from .database import DatabaseError, SchemaError, broken_after, explain_failure
from .feed import ROUND_SECONDS, Feed
from .identity import Identity
from .key_cache import CachedKey, KeyCache
from .settings import Settings

POLL_SECONDS = 0.4
_USES_SECONDS = 0.5
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


class KeyFeed(Feed):
    """The task between a KeyCache and Postgres."""

    subject = "keys"
    meanwhile = "keys in use go on, others are answered 503"

    def __init__(self, settings: Settings, cache: KeyCache) -> None:
        super().__init__(settings)
        self._cache = cache
        self.answered = asyncio.Event()
        """Set once the database is followed, or can't be: see ``refusal``."""
        self._refusal: SchemaError | None = None
        self._seen = _NOTHING
        self._asked: dict[str, asyncio.Future[bool]] = {}
        # Keys to confirm although nobody asks for them now: should Postgres go away, the cache is
        # all there is, and it must not hold a key that was revoked before.
        self._doubted: deque[str] = deque()
        self._uses: dict[str, float] = {}
        self._uses_due = 0.0

    @property
    def refusal(self) -> SchemaError | None:
        """Why the database at hand can't be followed at all, when that is so."""
        return self._refusal

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

    def _lost(self) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(False)
        self._asked.clear()

    async def _follow(self, connection: psycopg.AsyncConnection) -> None:
        connection.add_notify_handler(_ignore)  # that it arrived is all it says
        with broken_after(connection, ROUND_SECONDS):
            await connection.execute("LISTEN llamakit_keys")
            await self._compare_schema(connection)
        # What was seen on another connection may be of another server, or from before a restore.
        self._seen = _NOTHING
        while True:
            with broken_after(connection, ROUND_SECONDS):
                await self._sync(connection)
                await self._look_up(connection)
                await self._write_uses(connection)
            if not self._connected:
                self._worked = True
                self._follows()
                self.answered.set()
                _log.info("keys: following the database")
            closing = self._closing.is_set()
            if closing and not self._uses:
                return
            if not (self._asked or self._doubted or closing):
                await self._rest(connection, POLL_SECONDS)

    async def _compare_schema(self, connection: psycopg.AsyncConnection) -> None:
        """SchemaError when it is older than this release; when it is newer, say so and go on."""
        rows = await (await connection.execute(migrate.APPLIED)).fetchall()
        self._refusal = None
        migrations = migrate.packaged()
        if len(rows) < len(migrations):
            self._refusal = SchemaError(migrate.OLDER)
            self.answered.set()
            raise self._refusal
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
        if not self._uses or (now < self._uses_due and not self._closing.is_set()):
            return
        self._uses_due = now + _USES_SECONDS
        uses = [self._uses.popitem() for _ in range(min(len(self._uses), _BATCH))]
        times = [datetime.fromtimestamp(at, UTC) for _, at in uses]
        try:
            await connection.execute(_USES, {"ids": [key for key, _ in uses], "times": times})
        except psycopg.Error as error:
            # Nice to have, and never a reason to stop following; a lost connection shows by itself.
            _log.warning("keys: the last uses were not written: %s", explain_failure(error))


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
