"""Backups and releases: what was saved comes back, and a release gives way to the one before."""

from __future__ import annotations

from support.checkout import Checkout


def release(checkout: Checkout) -> str:
    """The release that runs, as status tells it."""
    return str(checkout.status()["upkeep"]["release"])


def test_a_restore_brings_back_the_users_of_the_backup(three: Checkout) -> None:
    key = three.new_key("kept")
    saved = three.console("backup")
    assert saved.code == 0, saved.screen
    assert ".dump" in saved.out
    assert ".dump" in three.console("backups").out
    three.new_key("later")
    restored = three.console("restore", "latest", "--yes")
    assert restored.code == 0, restored.screen
    listed = three.console("user", "list").out
    assert "kept" in listed
    assert "later" not in listed
    assert three.all_up()
    with three.client(key) as client:
        assert client.get("/v1/models").status_code == 200


def test_another_setting_is_a_release_and_rollback_goes_back(three: Checkout) -> None:
    before, pids = release(three), three.pids()
    three.start(env={"LLAMA_PROXY_RATE_LIMIT": "77"})
    after = release(three)
    assert after != before
    assert three.pids() == pids, "the proxy takes a release up while it runs"
    back = three.console("rollback")
    assert back.code == 0, back.screen
    assert release(three) == before
    assert three.pids() == pids
    assert three.all_up()


def test_an_upgrade_is_a_backup_and_a_start(three: Checkout) -> None:
    run = three.console("upgrade")
    assert run.code == 0, run.screen
    assert ".dump" in run.out
    assert "llamakit is up" in run.out


def test_an_upgrade_makes_no_backup_of_somebody_elses_server(three: Checkout) -> None:
    # A setting that preflight refuses: nothing is deployed.
    refused = {"POSTGRES_AUTH_HOST": "db.example.org", "LLAMA_PROXY_MAX_TOKENS": "0"}
    run = three.console("upgrade", env=refused)
    assert "No backup was made: the PostgreSQL at db.example.org is external" in run.out
    assert "expected a whole number 1..1000000" in run.screen
    assert three.all_up()
