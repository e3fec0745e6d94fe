"""One row in llama_requests for every request, written in batches away from the request path."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any

from .request_writer import DatabaseAwayError, RequestRow, RequestWriter, encode, tell_refused
from .settings import Settings
from .spool import FILE_BYTES, Leftover, Spool, SpoolFullError

__all__ = ["RequestLog", "RequestRow"]

FLUSH_SECONDS = 0.5
"""A process that is killed loses the rows of this time at most."""
_BATCH = 1_000
_ENCODED_AT_A_TIME = 100
_MAX_ROWS = 50_000
_RETRY_SECONDS = (0.25, 5.0)
_LEFTOVERS_EVERY_SECONDS = 5.0
_DISK_RETRY_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_BREAK_SECONDS = 1.0

_log = logging.getLogger(__name__)


class RequestLog:
    """Takes rows at once; twice a second they go to the spool on disk, and from there to Postgres.

    While Postgres is away the spool grows up to its bound. Then, and when the disk does not take
    them, rows wait in memory, up to a bound as well; those beyond it are dropped and counted.
    """

    def __init__(self, settings: Settings, *, max_rows: int = _MAX_ROWS) -> None:
        self._writer = RequestWriter(settings)
        self._spool: Spool | None = None
        if settings.spool_dir is not None and settings.spool_max_bytes:
            self._spool = Spool(settings.spool_dir, settings.spool_max_bytes)
        self._new: deque[RequestRow] = deque()
        # Rows that are not in Postgres; the spool has the first of them, too, and older ones.
        self._rows: deque[bytes] = deque()
        self._saved = 0
        self._leftover: Leftover | None = None
        self._leftovers_due = 0.0
        self._max_rows = max_rows
        self._dropped = 0
        self._dropped_told = 0
        self._trouble = ""
        self._disk_trouble = ""
        self._disk_retry_at = 0.0
        self._delay = 0.0
        self._retry_at = 0.0
        self._closing = False
        self._giving_up = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Rows that wait to be written, wherever they are."""
        return len(self._new) + len(self._rows) + self._left_over

    @property
    def spooled(self) -> int:
        """Those of them that the disk has."""
        return self._saved + self._left_over

    @property
    def spool_bytes(self) -> int:
        """Size of the spool on disk."""
        return 0 if self._spool is None else self._spool.bytes

    @property
    def dropped(self) -> int:
        """Rows lost since start, because too many waited or because Postgres refused them."""
        return self._dropped

    @property
    def _left_over(self) -> int:
        in_hand = 0 if self._leftover is None else len(self._leftover.rows)
        return in_hand + (0 if self._spool is None else self._spool.leftover_rows)

    @property
    def _unsaved(self) -> int:
        """Rows that are in memory alone."""
        return len(self._new) + len(self._rows) - self._saved

    def record(self, row: RequestRow) -> None:
        """Take a row. Never blocks and never fails; one too many is counted as dropped."""
        unsaved = self._unsaved
        if unsaved >= self._max_rows:
            self._dropped += 1
            return
        self._new.append(row)
        if unsaved >= _BATCH and not (self._trouble or self._disk_trouble):
            self._wake.set()

    async def start(self) -> None:
        """Begin to write; Postgres need not be there yet."""
        self._task = asyncio.create_task(self._run(), name="request log")

    async def close(self) -> None:
        """Write what waits, for a few seconds at most, and stop. What the spool has is not lost."""
        if self._task is None:
            return
        self._closing = True
        self._wake.set()
        done, _ = await asyncio.wait({self._task}, timeout=_CLOSE_SECONDS)
        if not done:
            self._giving_up = True
            self._wake.set()
            self._writer.break_off()
            done, _ = await asyncio.wait({self._task}, timeout=_BREAK_SECONDS)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._dropped += self._unsaved
        self._new.clear()
        self._rows.clear()
        self._saved = 0
        if self._leftover is not None:
            self._leftover.release()
        if self._spool is not None:
            self._spool.close()
        await self._writer.close()
        self._tell_dropped()

    async def _run(self) -> None:
        while not self._giving_up and not (self._closing and self._safe()):
            await self._rest()
            await self._save()
            if time.monotonic() < self._retry_at:
                continue
            try:
                await self._write()
            except DatabaseAwayError as error:
                await self._put_off(str(error))
            except Exception:
                _log.exception("request log: writing failed")
                await self._put_off("it failed")
            else:
                self._tell_trouble("")
            self._tell_dropped()
        await self._save()

    def _safe(self) -> bool:
        """Whether nothing would be lost by an end now, and no more could be done before it."""
        return not self._unsaved and (not self._rows or bool(self._trouble))

    async def _rest(self) -> None:
        """Wait for the next turn: until rows make a batch, or are the last, or time is up."""
        if self._closing and not self._trouble:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._wake.wait()
        self._wake.clear()

    async def _put_off(self, trouble: str) -> None:
        shortest, longest = _RETRY_SECONDS
        self._delay = min(self._delay * 2, longest) if self._trouble else shortest
        self._retry_at = time.monotonic() + self._delay
        self._leftovers_due = 0.0
        self._tell_trouble(trouble)
        await self._keep()

    # -- Postgres ------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write all there is, the rows in memory first: of those, few may pile up."""
        await self._saving_meanwhile(self._writer.keep_up())
        await self._write_rows()
        while await self._find_leftover():
            while self._leftover is not None and self._leftover.rows:
                batch = self._leftover.rows[:_BATCH]
                self._dropped += await self._saving_meanwhile(self._writer.write(batch))
                del self._leftover.rows[: len(batch)]
                await self._write_rows()
            await self._finish_leftover()

    async def _write_rows(self) -> None:
        """Write the rows that are in memory now, and not one by one those that come meanwhile."""
        count = len(self._rows)
        while count:
            batch = list(islice(self._rows, min(count, _BATCH)))
            self._dropped += await self._saving_meanwhile(self._writer.write(batch))
            self._forget(len(batch))
            count -= len(batch)
        spool = self._spool
        if spool is not None and spool.size:
            if not self._saved:
                await self._on_disk(spool.clear)
            elif spool.size >= FILE_BYTES:
                await self._leave_to_disk(spool)

    async def _saving_meanwhile(self, work: Coroutine[Any, Any, int]) -> int:
        """Rows go to the spool as ever while Postgres, which may take its time, writes some."""
        writing = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({writing}, timeout=FLUSH_SECONDS))[0]:
                await self._save()
            return await writing
        finally:
            writing.cancel()

    async def _encode_new(self) -> None:
        """Write down the rows that are new now. One after the other that costs a third of what it
        costs in the middle of a request, and whatever else is due has its turn in between."""
        count = len(self._new)
        for number in range(1, count + 1):
            row = self._new.popleft()
            try:
                self._rows.append(encode(row))
            except (ValueError, OverflowError) as error:
                tell_refused(type(error).__name__, row.request_id)
                self._dropped += 1
            if number % _ENCODED_AT_A_TIME == 0:
                await asyncio.sleep(0)

    # -- the spool -----------------------------------------------------------------------------

    async def _save(self) -> None:
        """Bring the rows that the spool has not yet there."""
        await self._encode_new()
        spool = self._spool
        if spool is None or time.monotonic() < self._disk_retry_at:
            return
        rows = list(islice(self._rows, self._saved, None))
        if rows and await self._on_disk(lambda: spool.append(rows)):
            self._saved += len(rows)
            self._disk_trouble = ""

    async def _keep(self) -> None:
        """Postgres is away: have the disk keep the rows for good, and memory for new ones."""
        spool = self._spool
        if spool is not None and await self._on_disk(spool.sync) and spool.size >= FILE_BYTES:
            await self._leave_to_disk(spool)

    async def _leave_to_disk(self, spool: Spool) -> None:
        self._forget(self._saved)
        await self._on_disk(spool.leave)

    def _forget(self, count: int) -> None:
        """The first rows need no longer be in memory."""
        for _ in range(count):
            self._rows.popleft()
        self._saved = max(0, self._saved - count)

    async def _find_leftover(self) -> bool:
        """Whether there are rows of an earlier time to write."""
        if self._leftover is not None:
            return True
        if self._spool is None or time.monotonic() < self._leftovers_due or self._closing:
            return False
        spool = self._spool

        def find() -> None:
            self._leftover = spool.oldest()

        await self._on_disk(find)
        if self._leftover is None:
            self._leftovers_due = time.monotonic() + _LEFTOVERS_EVERY_SECONDS
        return self._leftover is not None

    async def _finish_leftover(self) -> None:
        leftover, self._leftover = self._leftover, None
        if leftover is not None and not await self._on_disk(leftover.finish):
            self._leftovers_due = time.monotonic() + _DISK_RETRY_SECONDS

    async def _on_disk(self, work: Callable[[], None]) -> bool:
        """Do it in a thread, because a disk may take its time; whether it could be done."""
        try:
            await asyncio.to_thread(work)
        except (OSError, SpoolFullError) as error:
            trouble = str(error)
            if trouble != self._disk_trouble:
                _log.warning("request log: the spool fails, rows wait in memory: %s", trouble)
            self._disk_trouble = trouble
            self._disk_retry_at = time.monotonic() + _DISK_RETRY_SECONDS
            return False
        return True

    # -- what is said --------------------------------------------------------------------------

    def _tell_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.warning("request log: %s; %d rows wait", trouble, self.pending)
        elif self._trouble and not trouble:
            _log.info("request log: rows are written again")
        self._trouble = trouble

    def _tell_dropped(self) -> None:
        if self._dropped > self._dropped_told:
            _log.error(
                "request log: %d rows were dropped (%d since start)",
                self._dropped - self._dropped_told,
                self._dropped,
            )
            self._dropped_told = self._dropped
