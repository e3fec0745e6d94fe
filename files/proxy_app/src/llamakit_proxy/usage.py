"""Who used how much: whole UTC days from their sums, the rest of the first day from its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

# What can be grouped by, and how it is said. Nothing else becomes part of a query.
DIMENSIONS = {
    "user": sql.SQL("username"),
    "model": sql.SQL("model"),
    "day": sql.SQL("to_char(day, 'YYYY-MM-DD')"),
}

_BUCKETS = 64
_QUERY = sql.SQL(
    """
SELECT {labels}
       sum(requests)::bigint AS requests,
       sum(errors)::bigint AS errors,
       sum(prompt_tokens)::bigint AS prompt_tokens,
       sum(completion_tokens)::bigint AS completion_tokens,
       sum(duration_us)::bigint AS duration_us,
       max(max_duration_us) AS max_duration_us,
       ARRAY[{counts}] AS durations
FROM (
    SELECT day, username, model, requests, errors, prompt_tokens, completion_tokens, duration_us,
           max_duration_us, durations
    FROM llama_usage
    WHERE day >= %(first_day)s
    UNION ALL
    SELECT (created_at AT TIME ZONE 'UTC')::date, username, coalesce(model, '-'),
           count(*), count(*) FILTER (WHERE is_error(error_code)),
           coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           sum(round(duration_ms * 1000)::bigint), max(round(duration_ms * 1000)::bigint),
           count_buckets(array_agg(duration_bucket(duration_ms)))
    FROM llama_requests
    WHERE created_at >= %(since)s AND created_at < %(first_day)s::date
    GROUP BY 1, 2, 3
) AS counted
WHERE (%(user)s::text IS NULL OR lower(username) = lower(%(user)s))
      AND (%(model)s::text IS NULL OR model = %(model)s)
GROUP BY GROUPING SETS (({groups}), ())
"""
)
_PARTITION = "SELECT to_regclass('public.llama_requests_' || to_char(%s::date, 'YYYYMMDD'))"


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums of some requests. ``labels`` has a text for each dimension asked for."""

    labels: dict[str, str]
    requests: int
    errors: int
    """Those with an error code, save those whose client left or did not read."""
    prompt_tokens: int
    completion_tokens: int
    average_ms: float | None
    """Duration as the client saw it; None without requests."""
    p95_ms: float | None
    """From a histogram: no more than 26 % off, and usually much less."""
    max_ms: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Usage by group, the busiest first (days in their order), and the sum of all."""

    groups: list[Usage]
    total: Usage


def report(
    connection: psycopg.Connection,
    by: Sequence[str],
    *,
    since: datetime,
    user: str | None = None,
    model: str | None = None,
) -> Report:
    """Sums since a moment, by one or more of DIMENSIONS.

    When the rows of the day in which ``since`` lies are dropped already, the whole day counts.
    """
    query = _QUERY.format(
        labels=sql.SQL("").join(
            sql.SQL("{} AS {}, ").format(DIMENSIONS[name], sql.Identifier(f"by_{name}"))
            for name in by
        ),
        groups=sql.SQL(", ").join(DIMENSIONS[name] for name in by),
        counts=sql.SQL(", ").join(
            sql.SQL("sum(durations[{}])").format(bucket) for bucket in range(1, _BUCKETS + 1)
        ),
    )
    first_day = _first_whole_day(connection, since)
    values = {"since": since, "first_day": first_day, "user": user, "model": model}
    # Compiling so many sums takes longer than adding them up.
    connection.execute("SET jit = off")
    with connection.cursor(row_factory=dict_row, binary=True) as cursor:
        rows = cursor.execute(query, values).fetchall()
    found = [_usage({name: row[f"by_{name}"] for name in by}, row) for row in rows]
    # Only the sum of all has no label: the columns themselves are never null.
    total = next(one for one in found if None in one.labels.values())
    groups = [one for one in found if one is not total]
    groups.sort(key=lambda one: (one.labels.get("day", ""), -one.requests, *one.labels.values()))
    return Report(groups, total)


def _usage(labels: dict[str, str], row: dict[str, Any]) -> Usage:
    requests = row["requests"]
    if not requests:
        return Usage(labels, 0, 0, 0, 0, None, None, None)
    return Usage(
        labels,
        requests,
        row["errors"],
        row["prompt_tokens"],
        row["completion_tokens"],
        average_ms=row["duration_us"] / requests / 1000,
        p95_ms=_percentile(row["durations"], 0.95 * requests, row["max_duration_us"] / 1000),
        max_ms=row["max_duration_us"] / 1000,
    )


def _percentile(durations: Sequence[int], rank: float, longest_ms: float) -> float:
    """The duration that so many requests do not exceed, as if those of a bucket were spread evenly
    over it. The buckets are those of the database's duration_bucket()."""
    below = 0
    for bucket, count in enumerate(durations):
        if below + count >= rank:
            low = 2 ** ((bucket - 1) / 3) if bucket else 0.0
            high = longest_ms if bucket == _BUCKETS - 1 else min(2 ** (bucket / 3), longest_ms)
            return low + (high - low) * (rank - below) / count
        below += count
    return longest_ms


def _first_whole_day(connection: psycopg.Connection, since: datetime) -> date:
    """The first UTC day that is taken as a whole; what lies before it is summed row by row."""
    since = since.astimezone(UTC)
    day = since.date()
    if since.timetz() == time(tzinfo=UTC):
        return day
    row = connection.execute(_PARTITION, (day,)).fetchone()
    return day + timedelta(days=1) if row is not None and row[0] is not None else day
