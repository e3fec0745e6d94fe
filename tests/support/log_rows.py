"""Rows of the request log for tests, and what of them is in the database."""

import asyncio
import bisect
import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg

from llamakit_proxy.database import Role, connect
from llamakit_proxy.request_log import RequestLog, RequestRow
from llamakit_proxy.settings import Settings

_SUMS = """
SELECT (created_at AT TIME ZONE 'UTC')::date, username, coalesce(model, '-'), path,
       count(*), count(error_code) FILTER (WHERE error_code NOT LIKE 'client_%'),
       coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
       sum(round(duration_ms * 1000)::bigint),
       max(round(duration_ms * 1000)::bigint), array_agg(duration_ms)
FROM llama_requests GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
_USAGE = "SELECT * FROM llama_usage ORDER BY day, username, model, path"
# The buckets' upper ends in ms; the last bucket has none.
_ENDS = [2 ** (number / 3) for number in range(63)]


def row(number: int, **changes: Any) -> RequestRow:
    """A row whose request is ``req-NUMBER``."""
    plain = RequestRow(
        created_at=time.time(),
        username="alice",
        user_id=1,
        key_id="ABCDEFGHJKLM",
        method="POST",
        path="/v1/chat/completions",
        model="tiny",
        status_code=200,
        duration_ms=12.5,
        request_bytes=100,
        response_bytes=2_000,
        prompt_tokens=7,
        completion_tokens=11,
        stream=True,
        error_code=None,
        request_id=f"req-{number}",
        ttft_ms=3.25,
        queue_ms=None,
        client="192.0.2.1",
    )
    return dataclasses.replace(plain, **changes)


def written(settings: Settings) -> set[str]:
    """The ids of the rows in the database, after making sure that each was counted once."""
    with connect(settings, Role.ADMIN) as admin:
        rows = admin.execute("SELECT request_id FROM llama_requests").fetchall()
        check_usage(admin)
    ids = [request_id for (request_id,) in rows]
    assert len(ids) == len(set(ids))
    return set(ids)


def check_usage(admin: psycopg.Connection) -> None:
    """The roll-ups are what the rows add up to."""
    expected = []
    for *sums, durations in admin.execute(_SUMS):
        counts = Counter(bisect.bisect_left(_ENDS, duration) for duration in durations)
        expected.append((*sums, [counts[bucket] for bucket in range(64)]))
    assert admin.execute(_USAGE).fetchall() == expected


async def written_within(log: RequestLog, seconds: float) -> None:
    """Wait until nothing waits."""
    await until(lambda: log.pending == 0, seconds)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for it; TimeoutError when it does not come true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the log has no event for it, and needs none
            await asyncio.sleep(0.02)
