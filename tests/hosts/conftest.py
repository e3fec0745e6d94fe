"""Fixtures of the tests of deployed hosts, which Molecule runs: `molecule verify`."""

from __future__ import annotations

import pytest

from support.hosts import Host, names

HOSTS = {name: Host(name) for name in names()}


@pytest.fixture(params=sorted(HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    """Each host in turn."""
    return HOSTS[request.param]


@pytest.fixture
def hosts() -> list[Host]:
    """All of them."""
    return list(HOSTS.values())


@pytest.fixture
def cpu01() -> Host:
    """The host that is reached over SSH."""
    return HOSTS["cpu01"]
