"""bin/user_management_cli.sh and bin/bootstrap_user_cli.sh, through the real console.sh."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llamakit_proxy import keys, provision
from support.postgres import Postgres

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def empty_checkout(tmp_path: Path) -> Path:
    """console.sh and bin/ as in a fresh clone, nothing installed."""
    shutil.copytree(CHECKOUT / "bin", tmp_path / "bin")
    shutil.copytree(CHECKOUT / "files" / "console", tmp_path / "files" / "console")
    shutil.copy(CHECKOUT / "console.sh", tmp_path)
    return tmp_path


@pytest.fixture
def checkout(empty_checkout: Path, postgres: Postgres, request: pytest.FixtureRequest) -> Path:
    """The same with a proxy installed, whose database has roles but no tables yet."""
    database = f"scripts{abs(hash(request.node.name)) % 10**9}"
    provision.provision(postgres.settings(database))
    runtime = empty_checkout / "runtime"
    runtime.mkdir()
    (runtime / "state.json").write_text("{}")
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n"
        for name, value in postgres.environment(database).items()
    )
    source = shlex.quote(str(Path(keys.__file__).parents[1]))
    proxy = runtime / "llamakit-users"
    proxy.write_text(
        f"#!/bin/sh\n{exports}export PYTHONPATH={source}\n"
        f'exec {shlex.quote(sys.executable)} -m llamakit_proxy "$@"\n'
    )
    proxy.chmod(0o755)
    return empty_checkout


def run(checkout: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "bin" / f"{script}.sh"), *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_names_that_scripts_know(checkout: Path) -> None:
    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        result = run(checkout, "user_management_cli", *arguments)
        assert result.returncode == 0, result.stderr
        return result

    assert "applied 0001" in manage("init-db").stdout
    assert manage("init-db").stdout.startswith("nothing to do")
    made = manage("create-user", "--username", "alice").stdout.strip()
    assert keys.from_authorization(f"Bearer {made}".encode())
    assert "alice" in manage("list-users").stdout
    assert "active" in manage("show-user", "--username", "alice").stdout
    manage("disable-user", "--username", "alice")
    manage("enable-user", "--username", "alice")
    manage("set-limit", "--username", "alice", "--rate-limit", "5")
    manage("set-weight", "--username", "alice", "--weight", "2")
    public_id = made.removeprefix(keys.PREFIX).partition("-")[0]
    manage("set-priority", "--key", public_id, "--priority", "batch")
    manage("allow-models", "--username", "alice", "--models", "tiny")
    rotated = json.loads(manage("rotate-key", "--username", "alice", "--json").stdout)
    manage("revoke-key", "--key", rotated["key_id"])
    manage("revoke-key", "--username", "alice", "--all")
    assert "TOTAL" in manage("usage").stdout
    manage("delete-user", "--username", "alice", "--yes")
    assert "create-user" in manage().stdout


def test_misuse_exits_2(checkout: Path) -> None:
    assert run(checkout, "user_management_cli", "frobnicate").returncode == 2
    assert run(checkout, "user_management_cli", "create-user", "--nope").returncode == 2
    assert run(checkout, "bootstrap_user_cli", "alice").returncode == 2


def test_bootstrap_makes_the_tables_and_the_first_user(checkout: Path) -> None:
    first = run(checkout, "bootstrap_user_cli")
    assert (first.returncode, first.stdout) == (0, "")
    assert "create-user --username" in first.stderr
    made = run(checkout, "bootstrap_user_cli", "--username", "alice")
    assert made.returncode == 0, made.stderr
    assert keys.from_authorization(f"Bearer {made.stdout.strip()}".encode())
    again = run(checkout, "bootstrap_user_cli", "--username", "alice")
    assert (again.returncode, again.stdout) == (1, "")
    assert "already" in again.stderr


def test_before_anything_is_installed(empty_checkout: Path) -> None:
    for arguments in (["init-db"], ["create-user", "--username", "alice"]):
        result = run(empty_checkout, "user_management_cli", *arguments)
        assert result.returncode == 1
        assert result.stdout == ""
        assert "./console.sh start" in result.stderr
