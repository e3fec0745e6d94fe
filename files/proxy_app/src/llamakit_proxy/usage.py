"""Who used how much: sums over the request log."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

# What can be grouped by, and how the request log says it. Nothing else becomes part of a query.
DIMENSIONS = {
    "user": sql.SQL("username"),
    "model": sql.SQL("coalesce(model, '-')"),
    "day": sql.SQL("to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"),
}

_QUERY = sql.SQL(
    """
SELECT {labels}
       count(*) AS requests,
       count(*) FILTER (WHERE status_code >= 400) AS errors,
       coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
       coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens,
       avg(duration_ms) AS average_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms
FROM llama_requests
WHERE created_at >= %(since)s
      AND (%(user)s::text IS NULL OR lower(username) = lower(%(user)s))
      AND (%(model)s::text IS NULL OR model = %(model)s)
GROUP BY GROUPING SETS (({groups}), ())
"""
)


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
    """Sums since a moment, by one or more of DIMENSIONS."""
    query = _QUERY.format(
        labels=sql.SQL("").join(
            sql.SQL("{} AS {}, ").format(DIMENSIONS[name], sql.Identifier(f"by_{name}"))
            for name in by
        ),
        groups=sql.SQL(", ").join(DIMENSIONS[name] for name in by),
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, {"since": since, "user": user, "model": model}).fetchall()
    found = []
    for row in rows:
        labels = {name: row.pop(f"by_{name}") for name in by}
        found.append(Usage(labels=labels, **row))
    # Only the sum of all has no label: the columns themselves are never null.
    total = next(one for one in found if None in one.labels.values())
    groups = [one for one in found if one is not total]
    groups.sort(key=lambda one: (one.labels.get("day", ""), -one.requests, *one.labels.values()))
    return Report(groups, total)
