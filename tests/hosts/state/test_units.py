"""What runs under systemd, and what it is kept from."""

from __future__ import annotations

import re

from support.hosts import Host

SERVICES = ["llamakit-llama-embed", "llamakit-llama-script", "llamakit-proxy"]
MOST_EXPOSED = 2.0


def test_everything_runs(host: Host) -> None:
    assert host.services() == SERVICES
    units = [f"{name}.service" for name in SERVICES]
    others = ["llamakit.target", "llamakit-proxy.socket", "llamakit-backup.timer"]
    for unit in (*units, *others):
        assert host.properties(unit, "ActiveState")["ActiveState"] == "active", unit
    assert host.lines("systemctl --failed --plain --no-legend") == []
    assert host.status()["overall"] == "up"


def test_everything_starts_at_boot(host: Host) -> None:
    enabled = host.lines("systemctl is-enabled llamakit.target llamakit-backup.timer")
    assert enabled == ["enabled", "enabled"]
    wanted = host.properties("llamakit.target", "Wants", "Requires")
    for name in SERVICES:
        assert name in wanted["Wants"] + wanted["Requires"]


def test_no_unit_is_exposed(host: Host) -> None:
    for unit in (*SERVICES, "llamakit-backup"):
        line = host.run(f"systemd-analyze security --no-pager {unit}.service | tail -1")
        found = re.search(r"level for .*: ([\d.]+)", line)
        assert found, line
        assert float(found[1]) <= MOST_EXPOSED, line


def test_the_services_have_no_rights(host: Host) -> None:
    for name, pid in host.pids().items():
        status = host.run(f"cat /proc/{pid}/status")
        assert "NoNewPrivs:\t1" in status, name
        assert re.search(r"CapEff:\t0+\n", status), name
        owner = host.run(f"stat --format=%U /proc/{pid}")
        assert owner == "llamakit", name


def test_they_log_to_the_journal(host: Host) -> None:
    for name in SERVICES:
        assert host.run(f"journalctl --unit={name} --lines=1 --output=cat"), name


def test_only_the_proxy_listens_on_the_network(host: Host) -> None:
    listening = {
        line.split()[3] for line in host.lines("ss --listening --tcp --numeric --no-header")
    }
    ports = {address for address in listening if not address.endswith((":22", ":53"))}
    outside = {a for a in ports if not a.startswith(("127.0.0.1:", "[::1]:"))}
    assert outside <= {"0.0.0.0:8001", "*:8001"}
    assert "127.0.0.1:8010" in ports
    assert "127.0.0.1:8011" in ports


def test_the_models_reach_nobody(host: Host) -> None:
    """A model's server answers on loopback, and can open no connection to anywhere else."""
    found = host.properties(
        "llamakit-llama-script.service", "IPAddressAllow", "IPAddressDeny", "PrivateDevices"
    )
    assert "0.0.0.0/0" in found["IPAddressDeny"]
    assert "127.0.0.0/8" in found["IPAddressAllow"]
    assert found["PrivateDevices"] == "yes"
