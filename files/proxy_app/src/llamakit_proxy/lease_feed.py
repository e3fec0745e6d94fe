"""Between a ledger and the accounts in Postgres: one connection, owned by one task.

What several requests need at the same moment goes out together, in one statement. While Postgres
can't be asked, nobody waits for it: the ledger decides alone.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from .allowance import Allowance
from .database import DatabaseError, broken_after, connect_async, end, explain_failure
from .ledger import LEASE_SECONDS, Answer, Ledger, Report
from .meter import Ask, Meter
from .settings import Settings, SettingsError

_START_PATIENCE_SECONDS = 5.0
_ROUND_SECONDS = 3.0
_CLOSE_SECONDS = 3.0
_RETRY_SECONDS = (0.1, 2.0)
_BATCH = 250

_SETTLE = "SELECT * FROM settle_limits(%s)"

_log = logging.getLogger(__name__)


class LeaseFeed:
    """Reports what the ledger has to report, and wakes those who wait for the answers."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._waiting: dict[Ask, asyncio.Future[Allowance]] = {}
        self._wake = asyncio.Event()
        self._closed = asyncio.Event()
        self._heard = False
        """The server said something unasked."""
        self._first_try = asyncio.Event()
        self._connected = False
        self._worked = False
        self._last_trouble = ""
        self._connection: psycopg.AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the accounts can be asked now."""
        return self._connected

    async def start(self) -> None:
        """Start, and wait until the first attempt to connect has succeeded or failed."""
        self._task = asyncio.create_task(self._run(), name="leases")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_PATIENCE_SECONDS):
                await self._first_try.wait()

    async def close(self) -> None:
        """Give the leases back and stop, within a few seconds."""
        if self._task is None:
            return
        self._closed.set()
        self._ledger.close()
        self._wake.set()
        await end(self._task, lambda: self._connection, _CLOSE_SECONDS)

    def wake(self) -> None:
        """The ledger has something to report."""
        self._wake.set()

    async def ask(self, meter: Meter, amount: int) -> Allowance:
        """The account's word on this; the ledger's own when the account can't be asked."""
        if not self._connected:
            return self._ledger.take_alone(meter, amount, time.monotonic())
        ask = self._ledger.ask(meter, amount, time.monotonic())
        answer: asyncio.Future[Allowance] = asyncio.get_running_loop().create_future()
        self._waiting[ask] = answer
        self._wake.set()
        try:
            await answer
        except asyncio.CancelledError:
            self._ledger.withdraw(ask, time.monotonic())
            raise
        finally:
            self._waiting.pop(ask, None)
        return answer.result()

    async def _run(self) -> None:
        shortest, longest = _RETRY_SECONDS
        delay = shortest
        while not self._closed.is_set():
            await self._session()
            delay = shortest if self._worked else min(delay * 2, longest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._closed.wait()

    async def _session(self) -> None:
        """Connect and report until the connection is lost."""
        trouble = ""
        self._worked = False
        try:
            connection = await connect_async(self._settings, application="llamakit-proxy limits")
            async with connection:
                self._connection = connection
                await self._follow(connection)
        except (DatabaseError, SettingsError) as error:
            trouble = str(error)
        except psycopg.Error as error:
            trouble = explain_failure(error)
        except Exception:
            _log.exception("limits: leasing failed, and starts again")
        finally:
            self._connected = False
            self._connection = None
            self._tell(self._ledger.give_up(time.monotonic()))
            self._first_try.set()
        if trouble and trouble != self._last_trouble:
            _log.warning("limits: %s; each process counts alone meanwhile", trouble)
        self._last_trouble = trouble

    async def _follow(self, connection: psycopg.AsyncConnection) -> None:
        own = connection.info.backend_pid

        def recalled(notice: psycopg.Notify) -> None:
            if notice.pid != own:
                user, _, kind = notice.payload.partition(" ")
                self._ledger.recall(int(user), kind, time.monotonic())

        connection.add_notify_handler(recalled)
        with broken_after(connection, _ROUND_SECONDS):
            await connection.execute("LISTEN llamakit_limits")
        self._connected = True
        self._first_try.set()
        _log.info("limits: leasing from the database")
        while True:
            if self._heard:
                # Any statement will do: the handler is called while its answer is read.
                self._heard = False
                with broken_after(connection, _ROUND_SECONDS):
                    await connection.execute("SELECT")
            reports = self._ledger.reports(time.monotonic(), _BATCH)
            if reports:
                await self._settle(connection, reports)
            elif self._closed.is_set():
                return
            else:
                await self._rest(connection)

    async def _settle(self, connection: psycopg.AsyncConnection, reports: Sequence[Report]) -> None:
        answers: dict[int, Answer] = {}
        try:
            with broken_after(connection, _ROUND_SECONDS):
                cursor = await connection.execute(_SETTLE, (_document(reports),))
                answers = {row[0]: _answer(row) for row in await cursor.fetchall()}
            self._worked = True
        finally:
            now = time.monotonic()
            for number, report in enumerate(reports):
                answer = answers.get(number)
                if answer is None:
                    self._ledger.lose(report)
                else:
                    self._tell(self._ledger.apply(report, answer, now))

    def _tell(self, decided: Sequence[Ask]) -> None:
        for ask in decided:
            waiting = self._waiting.get(ask)
            if waiting is not None and not waiting.done() and ask.answer is not None:
                waiting.set_result(ask.answer)

    async def _rest(self, connection: psycopg.AsyncConnection) -> None:
        """Wait until there is something to report, or another process is in need."""
        loop = asyncio.get_running_loop()
        descriptor = connection.fileno()
        loop.add_reader(descriptor, self._hear)
        try:
            async with asyncio.timeout(self._ledger.wait_seconds(time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(descriptor)
        self._wake.clear()

    def _hear(self) -> None:
        self._heard = True
        self._wake.set()


def _document(reports: Sequence[Report]) -> str:
    """The argument of settle_limits."""
    return json.dumps(
        [
            {
                "item": number,
                "user_id": report.meter.user,
                "kind": report.rule.kind,
                "quota": report.rule.limit,
                "window_ms": report.rule.window * 1000,
                "lease_ms": int(LEASE_SECONDS * 1000),
                "bucket": report.bucket,
                "leased": report.leased,
                "unused": report.unused,
                "spent": report.spent,
                "age_ms": int(report.age_seconds * 1000),
                "held": report.held,
                "kept": report.kept,
                "needed": report.needed,
                "share": report.share,
            }
            for number, report in enumerate(reports)
        ]
    )


def _answer(row: tuple[Any, ...]) -> Answer:
    _, granted, free, bucket, valid_ms, idle, outs, amounts = row
    return Answer(
        granted=granted,
        free=free,
        bucket=bucket,
        valid_seconds=valid_ms / 1000,
        idle=idle,
        outs=tuple(zip((out / 1000 for out in outs), amounts, strict=True)),
    )
