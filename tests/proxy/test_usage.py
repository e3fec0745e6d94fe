"""``llamakit-proxy usage`` on a real PostgreSQL."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from llamakit_proxy import usage
from support.command import Command

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _requests(admin: psycopg.Connection) -> None:
    """alice: 20 good requests today; bob: 3 good and 1 refused, five days ago."""
    with admin.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO llama_requests (created_at, username, path, model, status_code,"
            " duration_ms, prompt_tokens, completion_tokens, error_code)"
            " VALUES (%s, %s, '/v1/chat/completions', %s, %s, %s, %s, %s, %s)",
            [
                *((NOW, "alice", "tiny", 200, float(n), 10, 2, None) for n in range(1, 21)),
                *(
                    (NOW - timedelta(days=5), "bob", "big", 200, 100.0, 1_000, 500, None)
                    for _ in range(3)
                ),
                (NOW - timedelta(days=5), "bob", None, 429, 1.0, None, None, "rate_limit_exceeded"),
            ],
        )


def test_sums(admin: psycopg.Connection) -> None:
    report = usage.report(admin, ["user"], since=NOW - timedelta(days=30))
    alice, bob = report.groups
    assert alice.p95_ms == pytest.approx(19, rel=0.26)
    assert dataclasses.replace(alice, p95_ms=None) == usage.Usage(
        {"user": "alice"}, 20, 0, 200, 40, 10.5, None, 20
    )
    assert (bob.requests, bob.errors, bob.prompt_tokens) == (4, 1, 3_000)
    assert (report.total.requests, report.total.errors) == (24, 1)
    assert report.total.completion_tokens == 1_540


def test_filters_and_groups(admin: psycopg.Connection) -> None:
    since = NOW - timedelta(days=30)
    by_all = usage.report(admin, ["user", "model", "day"], since=since).groups
    assert [tuple(group.labels.values())[:2] for group in by_all] == [
        ("bob", "big"), ("bob", "-"), ("alice", "tiny"),
    ]  # fmt: skip
    assert by_all[-1].labels["day"] == NOW.date().isoformat()
    assert usage.report(admin, ["user"], since=NOW - timedelta(days=1)).total.requests == 20
    assert usage.report(admin, ["user"], since=since, user="BOB").total.requests == 4
    assert usage.report(admin, ["user"], since=since, model="tiny").total.requests == 20
    nothing = usage.report(admin, ["model"], since=since, user="a%' OR '1'='1")
    assert nothing.groups == []
    assert (nothing.total.requests, nothing.total.average_ms) == (0, None)


def test_the_table(command: Command) -> None:
    result = command("usage", "--since", "30d")
    lines = result.out.splitlines()
    assert lines[0].split() == [
        "USER", "REQUESTS", "ERRORS", "PROMPT", "TOKENS", "COMPLETION", "TOKENS",
        "AVG", "MS", "P95", "MS",
    ]  # fmt: skip
    assert lines[1].split() == ["alice", "20", "0", "200", "40", "10", "19"]
    assert lines[-1].split() == ["TOTAL", "24", "1", "3,200", "1,540", "21", "92"]


def test_json(command: Command) -> None:
    day = (NOW - timedelta(days=1)).date().isoformat()
    result = command("usage", "--since", day, "--by", "day,user", "--json")
    document = json.loads(result.out)
    assert document["groups"][0]["user"] == "alice"
    assert document["groups"][0]["day"] == NOW.date().isoformat()
    assert document["total"]["requests"] == 20
    assert "user" not in document["total"]


def test_a_model_named_by_an_attacker_can_not_command_the_terminal(
    command: Command, admin: psycopg.Connection
) -> None:
    admin.execute("UPDATE llama_usage SET model = E'\\x1b[2Jx\\ny' WHERE model = 'big'")
    result = command("usage", "--by", "model")
    assert "\x1b" not in result.out
    assert "?[2Jx?y" in result.out


def test_bad_arguments(command: Command) -> None:
    for arguments in (
        ["--since", "yesterday"],
        ["--since", "2026-13-01"],
        ["--since", "-5d"],
        ["--by", "password"],
        ["--by", ""],
        ["--by", "user; DROP TABLE users"],
        ["extra"],
    ):
        result = command("usage", *arguments)
        assert result.code == 2, arguments
        assert result.out == ""
        assert "usage" in result.err


def test_errors_are_what_went_wrong_here(admin: psycopg.Connection) -> None:
    """Whatever the status was by then, and not that a client left."""
    with admin.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO llama_requests (created_at, username, path, status_code, duration_ms,"
            " error_code) VALUES (%s, 'carol', '/v1/chat/completions', %s, 1, %s)",
            [
                (moment, status, code)
                for moment in (NOW, NOW - timedelta(days=3, hours=1))
                for status, code in (
                    (200, "backend_error"),
                    (200, "client_disconnected"),
                    (499, "client_disconnected"),
                    (200, "client_too_slow"),
                    (200, None),
                )
            ],
        )
    # The sums have whole days; of the day that is cut its rows are counted.
    since = NOW - timedelta(days=3, hours=2)
    total = usage.report(admin, ["user"], since=since, user="carol").total
    assert (total.requests, total.errors) == (10, 2)
