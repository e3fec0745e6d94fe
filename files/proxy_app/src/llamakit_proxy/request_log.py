"""One row in llama_requests for every request, written in batches away from the request path."""

import asyncio
import contextlib
import logging
from collections import deque
from itertools import islice

from .request_writer import DatabaseAwayError, RequestRow, RequestWriter
from .settings import Settings

__all__ = ["RequestLog", "RequestRow"]

FLUSH_SECONDS = 0.5
_BATCH = 1_000
_MAX_ROWS = 50_000
_RETRY_SECONDS = (0.25, 5.0)
_CLOSE_SECONDS = 5.0
_BREAK_SECONDS = 1.0

_log = logging.getLogger(__name__)


class RequestLog:
    """Takes rows at once, and has them written about twice a second.

    While Postgres is away rows wait here, up to a bound; those beyond it are dropped and counted.
    A crash of the process loses what came in since the last write.
    """

    def __init__(self, settings: Settings, *, max_rows: int = _MAX_ROWS) -> None:
        self._writer = RequestWriter(settings)
        self._rows: deque[RequestRow] = deque()
        self._max_rows = max_rows
        self._dropped = 0
        self._dropped_told = 0
        self._trouble = ""
        self._closing = False
        self._giving_up = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Rows that wait to be written."""
        return len(self._rows) + self._writer.pending

    @property
    def dropped(self) -> int:
        """Rows lost since start, because too many waited or because Postgres refused them."""
        return self._dropped

    def record(self, row: RequestRow) -> None:
        """Take a row. Never blocks and never fails; one too many is counted as dropped."""
        if len(self._rows) >= self._max_rows:
            self._dropped += 1
            return
        self._rows.append(row)
        if len(self._rows) >= _BATCH:
            self._wake.set()

    async def start(self) -> None:
        """Begin to write; Postgres need not be there yet."""
        self._task = asyncio.create_task(self._run(), name="request log")

    async def close(self) -> None:
        """Write what waits, for a few seconds at most, and stop."""
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
        self._dropped += len(self._rows) + await self._writer.close()
        self._rows.clear()
        self._tell_dropped()

    async def _run(self) -> None:
        shortest, longest = _RETRY_SECONDS
        delay = shortest
        while not self._giving_up and (self.pending or not self._closing):
            await self._rest(delay if self._trouble else FLUSH_SECONDS)
            try:
                await self._write()
            except DatabaseAwayError as error:
                delay = min(delay * 2, longest) if self._trouble else shortest
                self._tell_trouble(str(error))
            except Exception:
                _log.exception("request log: writing failed")
                self._trouble = "it failed"
            else:
                self._tell_trouble("")
            self._tell_dropped()

    async def _write(self) -> None:
        """Write all there is, a batch at a time."""
        while self.pending:
            batch = [] if self._writer.pending else list(islice(self._rows, _BATCH))
            for _ in batch:
                self._rows.popleft()
            self._dropped += await self._writer.write(batch)

    async def _rest(self, seconds: float) -> None:
        """Wait for the next write: until rows make a batch, or are the last, or time is up."""
        if self._closing and not self._trouble:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

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
