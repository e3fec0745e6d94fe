"""Parts of the role postgres that need no PostgreSQL; the rest is for molecule and tests/cli."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.play import CHECKOUT, Play, run_tasks
from support.systemctl import put_systemctl


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the units and notes of a host, and a bookkeeper for systemctl."""
    for name in ("bin", "units", "services.d"):
        (tmp_path / name).mkdir()
    put_systemctl(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path


def role(folder: Path, tasks: str, *arguments: str, **variables: Any) -> Play:
    """Runs a part of the role on this machine."""
    include = {"name": str(CHECKOUT / "roles" / "postgres"), "tasks_from": tasks}
    # The tests name a kind of PostgreSQL that there is not.
    task = {
        "name": "Run it",
        "ansible.builtin.include_role": {**include, "rolespec_validate": False},
    }
    block = {"environment": {"FAKE_SYSTEMD": str(folder)}, "block": [task]}
    account = {"service_user": getpass.getuser(), "service_manager": "systemd-user"}
    places = {
        "__service_unit_dir": str(folder / "units"),
        "service_state_dir": str(folder),
        "postgres_state_dir": str(folder),
    }
    roles = [{"name": "postgres_roles", "password": ""}] * 2
    given = {"result": "", **account, **places, "postgres_roles": roles, **variables}
    return run_tasks(folder, [block], *arguments, **given)


@pytest.mark.parametrize("changes", [{"postgres_backup_schedule": ""}, {"postgres_external": True}])
def test_backups_that_nobody_wants_any_more_end(host: Path, changes: dict[str, Any]) -> None:
    left = [
        host / "units" / "llamakit-backup.service",
        host / "units" / "llamakit-backup.timer",
        host / "services.d" / "backup.json",
    ]
    for file in left:
        file.write_text('{"name": "backup", "schedule": "daily"}')
    played = role(host, "main", **{"postgres_source": "neither", **changes})
    assert played.code == 0, played.output
    assert [file for file in left if file.exists()] == []
    assert "llamakit-backup.timer" in (host / "calls").read_text()
    again = role(host, "main", **{"postgres_source": "neither", **changes})
    assert "changed=1 " in again.output, "but for the test's own file, nothing"


def test_an_installation_has_what_its_kind_of_postgresql_needs(tmp_path: Path) -> None:
    wanted = {"postgres_packages_missing": ["python3-psycopg2"]}
    played = role(tmp_path, "install", "--check", postgres_source="distribution", **wanted)
    assert played.code == 0, played.output
    assert "apt would install python3-psycopg2" in played.output
    played = role(tmp_path, "install", "--check", postgres_external=True, **wanted)
    assert played.code == 0, played.output
    assert "apt would install" not in played.output


def test_an_upgrade_makes_no_backup_of_somebody_elses_server(tmp_path: Path) -> None:
    (backup,) = (
        play
        for play in yaml.safe_load((CHECKOUT / "playbooks" / "upgrade.yml").read_text())
        if "tasks" in play
    )
    given: dict[str, Any] = {"postgres_host": "db.example.org", "postgres_port": 5432, "result": ""}
    played = run_tasks(tmp_path, backup["tasks"], postgres_external=True, **given)
    assert played.code == 0, played.output
    assert "No backup was made: localhost uses an external PostgreSQL" in played.output
    command = [str(tmp_path / "no-kit")]
    ours: dict[str, Any] = {"postgres_external": False, "postgres_kit_command": command, **given}
    assert "no-kit" in run_tasks(tmp_path, backup["tasks"], **ours).output
