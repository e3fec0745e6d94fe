"""Who used how much: whole UTC days from their sums, the rest of the first day from its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

# What can be grouped by, and how it is said. Nothing else becomes part of a query.
DIMENSIONS = {
    "user": sql.SQL("username"),
    "model": sql.SQL("model"),
    "day": sql.SQL("to_char(day, 'YYYY-MM-DD')"),
}

# The 95th percentile lies in the bucket with which 95 % of the requests are reached; the average of
# that bucket's durations is close to it.
_QUERY = sql.SQL(
    """
WITH counted AS (
    SELECT day, username, model, duration_bucket, requests, errors, prompt_tokens,
           completion_tokens, duration_us, max_duration_us
    FROM llama_usage
    WHERE day >= %(first_day)s
    UNION ALL
    SELECT (created_at AT TIME ZONE 'UTC')::date, username, coalesce(model, '-'),
           duration_bucket(duration_ms), 1, (status_code >= 400)::integer,
           coalesce(prompt_tokens, 0), coalesce(completion_tokens, 0),
           round(duration_ms * 1000)::bigint, round(duration_ms * 1000)::bigint
    FROM llama_requests
    WHERE created_at >= %(since)s AND created_at < %(first_day)s::date
), buckets AS (
    SELECT {labels}
           grouping({groups}) AS level,
           sum(requests) AS requests,
           sum(errors) AS errors,
           sum(prompt_tokens) AS prompt_tokens,
           sum(completion_tokens) AS completion_tokens,
           sum(duration_us) AS duration_us,
           max(max_duration_us) AS max_duration_us,
           duration_bucket
    FROM counted
    WHERE (%(user)s::text IS NULL OR lower(username) = lower(%(user)s))
          AND (%(model)s::text IS NULL OR model = %(model)s)
    GROUP BY GROUPING SETS (({groups}, duration_bucket), (duration_bucket))
), ranked AS (
    SELECT *, sum(requests) OVER (PARTITION BY level, {names} ORDER BY duration_bucket)
              >= 0.95 * sum(requests) OVER (PARTITION BY level, {names}) AS reached
    FROM buckets
)
SELECT {names},
       sum(requests)::bigint AS requests,
       sum(errors)::bigint AS errors,
       sum(prompt_tokens)::bigint AS prompt_tokens,
       sum(completion_tokens)::bigint AS completion_tokens,
       (sum(duration_us) / sum(requests) / 1000)::float8 AS average_ms,
       (min(duration_us / requests) FILTER (WHERE reached) / 1000)::float8 AS p95_ms,
       max(max_duration_us)::float8 / 1000 AS max_ms
FROM ranked
GROUP BY level, {names}
"""
)
_PARTITION = "SELECT to_regclass('public.llama_requests_' || to_char(%s::date, 'YYYYMMDD'))"


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums of some requests. ``labels`` has a text for each dimension asked for."""

    labels: dict[str, str]
    requests: int
    errors: int
    """Answered with a status of 400 or more."""
    prompt_tokens: int
    completion_tokens: int
    average_ms: float | None
    """Duration as the client saw it; None without requests."""
    p95_ms: float | None
    """No more than 9 % off, and usually much less."""
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
    names = [sql.Identifier(f"by_{name}") for name in by]
    query = _QUERY.format(
        labels=sql.SQL("").join(
            sql.SQL("{} AS {}, ").format(DIMENSIONS[name], identifier)
            for name, identifier in zip(by, names, strict=True)
        ),
        groups=sql.SQL(", ").join(DIMENSIONS[name] for name in by),
        names=sql.SQL(", ").join(names),
    )
    first_day = _first_whole_day(connection, since)
    values = {"since": since, "first_day": first_day, "user": user, "model": model}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, values).fetchall()
    found = []
    for row in rows:
        labels = {name: row.pop(f"by_{name}") for name in by}
        found.append(Usage(labels=labels, **row))
    # Only the sum of all has no label: the columns themselves are never null.
    nothing = Usage({}, 0, 0, 0, 0, None, None, None)
    total = next((one for one in found if None in one.labels.values()), nothing)
    groups = [one for one in found if one is not total]
    groups.sort(key=lambda one: (one.labels.get("day", ""), -one.requests, *one.labels.values()))
    return Report(groups, total)


def _first_whole_day(connection: psycopg.Connection, since: datetime) -> date:
    """The first UTC day that is taken as a whole; what lies before it is summed row by row."""
    since = since.astimezone(UTC)
    day = since.date()
    if since.timetz() == time(tzinfo=UTC):
        return day
    row = connection.execute(_PARTITION, (day,)).fetchone()
    return day + timedelta(days=1) if row is not None and row[0] is not None else day
