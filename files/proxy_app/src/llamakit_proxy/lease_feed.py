"""Between a ledger and the accounts in Postgres: one connection, owned by one task.

What several requests need at the same moment goes out together, in one statement. While Postgres
can't be asked, nobody waits for it: the ledger decides alone.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from .allowance import Allowance
from .database import broken_after
from .feed import ROUND_SECONDS, Feed
from .ledger import LEASE_SECONDS, Answer, Ledger, Report
from .meter import Ask, Meter
from .settings import Settings

_BATCH = 250

_SETTLE = "SELECT * FROM settle_limits(%s)"

_log = logging.getLogger(__name__)


class LeaseFeed(Feed):
    """Reports what the ledger has to report, and wakes those who wait for the answers."""

    subject = "limits"
    meanwhile = "each process counts alone meanwhile"

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        super().__init__(settings)
        self._ledger = ledger
        self._waiting: dict[Ask, asyncio.Future[Allowance]] = {}

    async def close(self) -> None:
        """Give the leases back and stop, within a few seconds."""
        self._ledger.close()
        await super().close()

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

    def _lost(self) -> None:
        self._tell(self._ledger.give_up(time.monotonic()))

    async def _follow(self, connection: psycopg.AsyncConnection) -> None:
        own = connection.info.backend_pid

        def recalled(notice: psycopg.Notify) -> None:
            if notice.pid != own:
                user, _, kind = notice.payload.partition(" ")
                self._ledger.recall(int(user), kind, time.monotonic())

        connection.add_notify_handler(recalled)
        with broken_after(connection, ROUND_SECONDS):
            await connection.execute("LISTEN llamakit_limits")
        self._follows()
        _log.info("limits: leasing from the database")
        heard = False
        while True:
            if heard:
                # Any statement will do: the handler is called while its answer is read.
                heard = False
                with broken_after(connection, ROUND_SECONDS):
                    await connection.execute("SELECT")
            reports = self._ledger.reports(time.monotonic(), _BATCH)
            if reports:
                await self._settle(connection, reports)
            elif self._closing.is_set():
                return
            else:
                heard = await self._rest(connection, self._ledger.wait_seconds(time.monotonic()))

    async def _settle(self, connection: psycopg.AsyncConnection, reports: Sequence[Report]) -> None:
        answers: dict[int, Answer] = {}
        try:
            with broken_after(connection, ROUND_SECONDS):
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
