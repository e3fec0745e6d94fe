"""What runs comes back: after kill -9, after a reboot, out of a backup."""

from __future__ import annotations

import json
from functools import partial

from support.hosts import Host, play, wait_for


def test_whatever_is_killed_comes_back(host: Host) -> None:
    for name, pid in host.pids().items():
        host.run(f"kill -9 {pid}")
        wait_for(partial(_runs_anew, host, name, pid), 30)
    wait_for(host.up, 90)


def _runs_anew(host: Host, name: str, before: int) -> bool:
    return host.pids()[name] not in (0, before)


def test_the_database_comes_back_too(host: Host) -> None:
    data = host.run("pg_lsclusters --no-header").split()[5]
    before = host.run(f"head -1 {data}/postmaster.pid")
    host.run(f"kill -9 {before}")
    wait_for(lambda: _postmaster(host, data) not in ("", before), 30)
    # It takes connections before it has recovered, and refuses them until then.
    wait_for(lambda: host.system.run("llamakit-users user list").rc == 0, 60)
    wait_for(host.up, 60)
    # It answers a moment before systemd knows that it has started.
    wait_for(lambda: _database_pid(host) == _postmaster(host, data), 30)


def test_status_tells_of_a_database_that_is_stopped(host: Host) -> None:
    unit = host.run("systemctl list-units --plain --no-legend 'postgresql@*-llamakit.service'")
    unit = unit.split()[0]
    host.run(f"systemctl stop {unit}")
    try:
        status = host.status()
        assert status["overall"] == "degraded"
        assert status["services"][0]["state"] == "stopped"
    finally:
        host.run(f"systemctl start {unit}")
    wait_for(host.up, 60)


def _database_pid(host: Host) -> str:
    """What ``status`` says."""
    database = host.status()["services"][0]
    assert database["name"] == "postgres"
    return str(database["pid"])


def _postmaster(host: Host, data: str) -> str:
    return str(host.system.run(f"head -1 {data}/postmaster.pid").stdout).strip()


def test_the_keys_of_a_backup_are_back_after_a_restore(host: Host) -> None:
    key = host.new_key("kept")
    play("playbooks/backup.yml", hosts=host.name)
    backups = json.loads(host.run("llamakit backups --json --settings /etc/llamakit/database.json"))
    assert backups, "a backup was made and is not listed"
    host.run("llamakit-users user delete --username kept --yes")
    late = host.new_key("late")
    with host.http(key) as gone, host.http(late) as new:
        wait_for(lambda: gone.get("/v1/models").status_code == 401, 5)
        assert new.get("/v1/models").status_code == 200
        play("playbooks/restore.yml", hosts=host.name, backup="latest", llamakit_confirm="restore")
        wait_for(lambda: gone.get("/v1/models").status_code == 200, 30)
        wait_for(lambda: new.get("/v1/models").status_code == 401, 30)
    host.run("llamakit-users user delete --username kept --yes")
    assert not [text for text in host.status()["upkeep"]["warnings"] if "backup" in text]


def test_everything_runs_again_after_a_reboot(host: Host) -> None:
    key = host.new_key("rebooted")
    host.restart()
    wait_for(host.up, 120)
    with host.openai(key) as client:
        assert [model.id for model in client.models.list()] == ["script", "embed"]
    host.run("llamakit-users user delete --username rebooted --yes")
