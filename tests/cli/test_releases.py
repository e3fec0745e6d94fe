"""Backups and releases: what was saved comes back, and a release gives way to the one before."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx

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
    newest = Path(json.loads(three.console("backups", "--json").out)[0]["file"])
    restored = three.console("restore", newest.name, "--yes")
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


def answering(checkout: Checkout) -> str:
    """The release that answers over TLS, with the certificate that clients are given."""
    certificate = checkout.path / "runtime" / "tls_certificate.pem"
    trust = ssl.create_default_context(cafile=str(certificate))
    url = f"https://127.0.0.1:{checkout.proxy_port}/readyz"
    return str(httpx.get(url, verify=trust, trust_env=False).json()["release"])


def test_rollback_past_the_deployment_that_turned_tls_on_keeps_tls(three: Checkout) -> None:
    before = release(three)
    tls = {
        "LLAMA_PROXY_TLS": "self-signed",
        "LLAMA_PROXY_RATE_LIMIT": "78",
        "LLAMA_PROXY_READY_TIMEOUT_SECONDS": "15",
    }
    three.start(env=tls)
    try:
        after = release(three)
        assert after != before
        back = three.console("rollback", env=tls)
        assert back.code == 0, back.screen
        assert release(three) == answering(three) == before
        assert three.all_up()
        assert three.console("verify", env=tls).code == 0

        # The one to go back to takes over, and then knows no model that is up.
        folder = three.path / "runtime" / "releases" / after
        routes = folder / "routes.json"
        routes.write_text(json.dumps({"models": []}))
        settings = folder / "proxy.env"
        right = settings.read_text()
        settings.write_text(f"{right}LLAMA_PROXY_ROUTES={routes}\n")
        three.account.own(folder)
        failed = three.console("rollback", env=tls)
        assert failed.code == 1, failed.screen
        assert f"The release {after} did not take over; {before} goes on:" in failed.screen
        assert release(three) == answering(three) == before
        assert three.all_up()
    finally:
        three.start()


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
