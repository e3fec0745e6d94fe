"""``llamakit-proxy user …``, ``init-db`` and ``provision-db`` on a real PostgreSQL."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from llamakit_proxy import keys
from llamakit_proxy.settings import Settings
from support.command import Command
from support.postgres import Postgres


def create(command: Command, username: str, *arguments: str) -> keys.PresentedKey:
    result = command("user", "create", "--username", username, *arguments)
    assert result.code == 0, result.err
    presented = keys.from_authorization(f"Bearer {result.out.strip()}".encode())
    assert presented is not None
    return presented


def states(command: Command, username: str) -> dict[str, str]:
    document = json.loads(command("user", "show", username, "--json").out)
    return {key["public_id"]: key["state"] for key in document["keys"]}


def test_create_prints_the_key_alone_and_once(command: Command, admin: psycopg.Connection) -> None:
    result = command("user", "create", "--username", "alice")
    assert result.code == 0
    text = result.out.removesuffix("\n")
    presented = keys.from_authorization(f"Bearer {text}".encode())
    assert presented is not None
    assert text not in result.err
    assert "once" in result.err
    stored = admin.execute("SELECT public_id, sha256 FROM api_keys").fetchall()
    assert stored == [(presented.public_id, hashlib.sha256(text.encode()).digest())]
    for arguments in (["list"], ["show", "alice"], ["list", "--json"], ["show", "alice", "--json"]):
        shown = command("user", *arguments)
        assert text.rpartition("-")[2] not in shown.out + shown.err


def test_create_with_everything(command: Command) -> None:
    result = command(
        "user", "create", "alice", "--expires", "30d", "--rate-limit", "5", "--rate-window", "10",
        "--models", "tiny, big,tiny", "--label", "laptop", "--day-budget", "900", "--json",
    )  # fmt: skip
    made = json.loads(result.out)
    assert set(made) == {"username", "key_id", "key"}
    shown = json.loads(command("user", "show", "alice", "--json").out)
    assert shown["allowed_models"] == ["tiny", "big"]
    assert (shown["rate_limit"], shown["rate_window_seconds"]) == (5, 10)
    assert (shown["day_budget"], shown["month_budget"], shown["used"]) == (900, None, {})
    assert shown["keys"][0]["label"] == "laptop"
    assert shown["keys"][0]["expires_at"] is not None
    assert "secret" not in json.dumps(shown)


def test_scopes(command: Command) -> None:
    create(command, "alice")
    create(command, "bob", "--scopes", "metrics, admin,metrics")
    assert _scopes(command, "alice") == [["inference"]]
    assert _scopes(command, "bob") == [["admin", "metrics"]]
    assert "admin,metrics" in command("user", "show", "bob").out
    command("user", "rotate", "bob")
    command("user", "rotate", "bob", "--scopes", "inference")
    assert _scopes(command, "bob") == [["admin", "metrics"], ["admin", "metrics"], ["inference"]]


def _scopes(command: Command, username: str) -> list[list[str]]:
    document = json.loads(command("user", "show", username, "--json").out)
    return [key["scopes"] for key in document["keys"]]


@pytest.mark.parametrize("again", ["alice", "ALICE"])
def test_a_duplicate_is_an_error(command: Command, again: str) -> None:
    create(command, "alice")
    result = command("user", "create", "--username", again)
    assert result.code == 1
    assert result.out == ""
    assert "already" in result.err
    assert "rotate" in result.err


def test_a_bad_username_is_an_error(command: Command) -> None:
    names = ["", " ", "a b", "-x", ".x", "x" * 65, "ünï", "a\nb", "a'; DROP TABLE users; --", "a/b"]
    for name in names:
        result = command("user", "create", f"--username={name}")
        assert result.code == 1, name
        assert "can't be a username" in result.err
        assert result.err.count("\n") == 1
    assert command("user", "list").out.startswith("no users yet")


BAD_ARGUMENTS = [
    [],
    ["create"],
    ["create", "alice", "--username", "alice"],
    ["create", "alice", "--expires", "soon"],
    ["create", "alice", "--expires", "0d"],
    ["create", "alice", "--rate-limit", "-1"],
    ["create", "alice", "--rate-limit", "9" * 30],
    ["create", "alice", "--rate-window", "0"],
    ["create", "alice", "--models", ","],
    ["create", "alice", "--scopes", ","],
    ["create", "alice", "--scopes", "inference,root"],
    ["rotate", "alice", "--scopes", "Admin"],
    ["show"],
    ["list", "alice"],
    ["revoke"],
    ["revoke", "alice"],
    ["revoke", "--all"],
    ["revoke", "alice", "--key", "ABCDEFGHJKLM"],
    ["revoke", "--key", "ABCDEFGHJKLM", "--all"],
    ["rotate", "alice", "--overlap", "1 day"],
    ["set-limit", "alice"],
    ["set-limit", "alice", "--rate-limit", "1.5"],
    ["set-limit", "alice", "--token-window", "none"],
    ["set-limit", "alice", "--month-budget", "9" * 16],
    ["set-limit", "alice", "--max-concurrent", "-1"],
    ["allow-models", "alice"],
    ["create", "alice", "--weight", "0"],
    ["create", "alice", "--weight", "101"],
    ["create", "alice", "--priority", "urgent"],
    ["set-weight", "alice"],
    ["set-weight", "alice", "--weight", "x"],
    ["set-priority", "--priority", "batch"],
    ["set-priority", "--key", "ABCDEFGHJKLM"],
    ["explode", "alice"],
]


def test_bad_arguments_exit_2(command: Command) -> None:
    for arguments in BAD_ARGUMENTS:
        result = command("user", *arguments)
        assert result.code == 2, arguments
        assert result.out == ""
        assert "usage:" in result.err


@pytest.mark.parametrize(
    "verb",
    ["show", "disable", "enable", "rotate", "delete", "set-limit", "set-weight", "allow-models"],
)
def test_nobody_is_an_error(command: Command, verb: str) -> None:
    extra = {
        "delete": ["--yes"],
        "set-limit": ["--rate-limit", "1"], "set-weight": ["--weight", "2"],
        "allow-models": ["--models", "all"],
    }  # fmt: skip
    result = command("user", verb, "--username", "nobody", *extra.get(verb, []))
    assert result.code == 1
    assert "there is no user 'nobody'; `llamakit-users user list` shows" in result.err


def test_list_is_a_neat_table(command: Command) -> None:
    assert "create one" in command("user", "list").out
    create(command, "bob")
    create(command, "alice", "--rate-limit", "5", "--models", "tiny")
    lines = command("user", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["USERNAME", "alice", "bob"]
    assert len({line.index(word) for line, word in zip(lines, ("STATUS", "active", "active"),
                                                       strict=True)}) == 1  # fmt: skip


def test_disable_and_enable(command: Command) -> None:
    create(command, "alice")
    assert "now disabled" in command("user", "disable", "Alice").out
    assert "already disabled" in command("user", "disable", "alice").out
    changed = command("user", "enable", "alice", "--json").out
    assert json.loads(changed) == {"username": "alice", "status": "active", "changed": True}


def test_rotate_keeps_the_old_key_for_the_overlap(command: Command) -> None:
    old = create(command, "alice", "--expires", "30d", "--label", "laptop")
    result = command("user", "rotate", "alice")
    assert old.public_id in result.err
    assert "1d" in result.err
    document = json.loads(command("user", "show", "alice", "--json").out)
    first, second = document["keys"]
    assert (first["state"], second["state"]) == ("active", "active")
    assert first["expires_at"] < second["expires_at"]  # the new one lives for 30 days again
    assert second["label"] == "laptop"


def test_rotate_at_once(command: Command) -> None:
    old = create(command, "alice")
    new = command("user", "rotate", "alice", "--overlap", "0s", "--expires", "7d", "--json")
    assert states(command, "alice") == {
        old.public_id: "revoked", json.loads(new.out)["key_id"]: "active",
    }  # fmt: skip


def test_rotating_an_expired_key_lifts_no_expiry(
    command: Command, admin: psycopg.Connection
) -> None:
    create(command, "alice", "--expires", "1d")
    admin.execute(
        "UPDATE api_keys SET created_at = now() - interval '2d', expires_at = now() - interval '1d'"
    )
    command("user", "rotate", "alice")
    never = admin.execute("SELECT count(*) FROM api_keys WHERE expires_at IS NULL").fetchone()
    assert never == (0,)
    command("user", "rotate", "alice", "--expires", "never")
    never = admin.execute("SELECT count(*) FROM api_keys WHERE expires_at IS NULL").fetchone()
    assert never == (1,)


def test_revoke_one_key_and_all(command: Command) -> None:
    first = create(command, "alice")
    command("user", "rotate", "alice")
    assert "now revoked" in command("user", "revoke", "--key", first.public_id).out
    assert "already revoked" in command("user", "revoke", "--key", first.public_id).out
    assert sorted(states(command, "alice").values()) == ["active", "revoked"]
    assert "revoked 1 key" in command("user", "revoke", "alice", "--all").out
    assert set(states(command, "alice").values()) == {"revoked"}
    missing = command("user", "revoke", "--key", "ABCDEFGHJKLM")
    assert (missing.code, "no key ABCDEFGHJKLM" in missing.err) == (1, True)


def test_a_whole_key_given_to_revoke_is_not_repeated(command: Command) -> None:
    text = command("user", "create", "alice").out.strip()
    result = command("user", "revoke", "--key", text)
    assert result.code == 1
    assert text.rpartition("-")[2] not in result.out + result.err
    assert "public id" in result.err


def test_limits_and_models(command: Command) -> None:
    create(command, "alice")
    assert "7 per 30 s" in command(
        "user", "set-limit", "alice", "--rate-limit", "7", "--rate-window", "30"
    ).out  # fmt: skip
    assert "none" in command("user", "set-limit", "alice", "--rate-limit", "0").out
    assert "default" in command("user", "set-limit", "alice", "--rate-limit", "default").out
    shown = command(
        "user", "set-limit", "alice", "--token-limit", "5000", "--token-window", "30",
        "--max-concurrent", "2", "--day-budget", "0", "--month-budget", "123456789012",
    ).out  # fmt: skip
    expected = "5000 tokens per 30 s, 2 at once, no day budget, 123456789012 tokens a month"
    assert shown == f"alice: limit: {expected}\n"
    # What is not named stays, but a limit without a window has the server's.
    assert "5000 tokens per 30 s" in command(
        "user", "set-limit", "alice", "--max-concurrent", "none"
    ).out  # fmt: skip
    assert "any number at once" in command("user", "list").out
    shown = command("user", "set-limit", "alice", "--token-limit", "7").out
    assert "7 tokens per window, any" in shown
    every = ["--rate-limit", "--token-limit", "--max-concurrent", "--day-budget", "--month-budget"]
    defaults = [word for option in every for word in (option, "default")]
    assert command("user", "set-limit", "alice", *defaults).out == "alice: limit: default\n"
    assert "a,b" in command("user", "allow-models", "alice", "--models", "a,b").out
    assert "all" in command("user", "allow-models", "alice", "--models", "all").out


def test_weight_and_priority(command: Command) -> None:
    key = create(command, "alice", "--weight", "5", "--priority", "batch")

    def shown() -> tuple[int, list[str]]:
        document = json.loads(command("user", "show", "alice", "--json").out)
        return document["weight"], [key["priority"] for key in document["keys"]]

    assert shown() == (5, ["batch"])
    assert "weight: 2" in command("user", "set-weight", "alice", "--weight", "2").out
    command("user", "rotate", "alice")
    assert shown() == (2, ["batch", "batch"])
    done = command("user", "set-priority", "--key", key.public_id, "--priority", "interactive")
    assert done.out == f"{key.public_id} is now interactive\n"
    assert shown() == (2, ["interactive", "batch"])
    assert "Weight:   2" in command("user", "show", "alice").out
    create(command, "bob")
    bob = json.loads(command("user", "show", "bob", "--json").out)
    assert (bob["weight"], bob["keys"][0]["priority"]) == (1, "interactive")
    missing = command("user", "set-priority", "--key", "ABCDEFGHJKLM", "--priority", "batch")
    assert (missing.code, "no key ABCDEFGHJKLM" in missing.err) == (1, True)


def test_delete_asks_and_keeps_the_usage(
    command: Command, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(command, "alice")
    admin.execute(
        "INSERT INTO llama_requests (username, path, status_code, duration_ms)"
        " VALUES ('alice', '/v1/models', 200, 1)"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # not a terminal: no answer is taken
    refused = command("user", "delete", "alice")
    assert (refused.code, "--yes" in refused.err) == (1, True)
    assert command("user", "delete", "alice", "--yes").code == 0
    assert command("user", "show", "alice").code == 1
    assert admin.execute("SELECT username FROM llama_requests").fetchall() == [("alice",)]
    assert create(command, "alice")


def test_database_commands_say_what_they_changed(command: Command) -> None:
    assert command("provision-db").out.startswith("nothing to do")
    assert command("init-db").out.startswith("nothing to do")
    for name in ("provision-db", "init-db"):
        assert json.loads(command(name, "--json").out) == {"changed": False, "changes": []}


def test_database_trouble_is_one_line(
    command: Command, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_AUTH_PORT", "1")
    for arguments in (["user", "list"], ["usage"], ["init-db"], ["provision-db"]):
        result = command(*arguments)
        assert result.code == 1
        assert result.out == ""
        assert re.fullmatch(r"error: can't connect to Postgres at 127\.0\.0\.1:1 .*\n", result.err)


def test_without_a_schema_the_next_command_is_named(
    command: Command, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.settings("bare")
    for name, value in postgres.environment("bare").items():
        monkeypatch.setenv(name, value)
    assert command("provision-db").code == 0
    result = command("user", "list")
    assert result.code == 1
    assert "init-db" in result.err


def test_no_key_is_in_the_servers_log_or_in_an_argument(
    postgres: Postgres, settings: Settings, tmp_path: Path
) -> None:
    """A whole session of a person, in processes of its own."""
    environment = {**os.environ, **postgres.environment(settings.postgres_db)}
    source = Path(keys.__file__).parents[1]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llamakit_proxy", *arguments],
            env={**environment, "PYTHONPATH": str(source)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    made = [run("user", "create", "--username", "alice"), run("user", "rotate", "alice")]
    others = [
        run("user", "create", "--username", "alice"),
        run("user", "show", "alice"),
        run("user", "revoke", "--key", made[0].stdout.strip()),
        run("user", "revoke", "alice", "--all"),
        run("usage"),
    ]
    assert [result.returncode for result in (*made, *others)] == [0, 0, 1, 0, 1, 0, 0]
    log = postgres.log.read_text()
    assert "INSERT INTO api_keys" in log
    for result in made:
        text = result.stdout.strip()
        secret = text.rpartition("-")[2]
        assert len(secret) == keys.SECRET_LENGTH
        assert text.split("-")[2] in log  # the public id may be there, and shows that it would
        assert secret not in log
        assert all(secret not in other.stdout + other.stderr for other in others)
        assert secret not in result.stderr
