"""`--check --diff` of a host that is as it should be has nothing to tell."""

from __future__ import annotations

from support.hosts import Host, play


def test_nothing_would_change(hosts: list[Host]) -> None:
    run = play("site.yml", "--check", "--diff")
    assert run.changed == {host.name: 0 for host in hosts}
    assert "+++" not in run.output
