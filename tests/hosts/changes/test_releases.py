"""Releases of the proxy: taken up without a failed request, and left again when they are bad."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hosts import Host, play
from support.load import Load
from support.podman import CHECKOUT

WORKER = Path("files", "proxy_app", "src", "llamakit_proxy", "worker.py")


def links(host: Host) -> list[str]:
    """The releases that `current` and `previous` name."""
    paths = host.lines("readlink /opt/llamakit/current /opt/llamakit/previous || true")
    return [path.rpartition("/")[2] for path in paths]


def serving(host: Host) -> str:
    with host.http() as client:
        return str(client.get("/readyz").json()["release"])


@pytest.fixture
def key(cpu01: Host) -> Iterator[str]:
    """The key of somebody whose requests have no limit."""
    made = cpu01.new_key("steady")
    cpu01.run("llamakit-users user set-limit --username steady --rate-limit 0")
    yield made
    cpu01.run("llamakit-users user delete --username steady --yes")


@pytest.fixture
def bad_checkout(tmp_path: Path) -> Path:
    """A checkout whose proxy imports, and dies as soon as it should serve."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=CHECKOUT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"],
        cwd=CHECKOUT, check=True, capture_output=True, input=files,
    ).stdout  # fmt: skip
    subprocess.run(["tar", "--extract"], cwd=checkout, check=True, input=packed)
    worker = checkout / WORKER
    worker.write_text(
        worker.read_text() + '\n\ndef run(*_: object) -> int:\n    raise OSError("bad")\n'
    )
    return checkout


def test_a_bad_release_is_left_again_and_nobody_notices(
    cpu01: Host, key: str, bad_checkout: Path
) -> None:
    before, pids = links(cpu01), cpu01.pids()
    with Load(cpu01, key) as load:
        said = play(hosts="cpu01", checkout=bad_checkout, expect=2).output
    assert "serves again" in said
    assert load.failures == []
    assert load.sent > 100
    assert links(cpu01) == before
    assert serving(cpu01) == before[0]
    assert cpu01.pids() == pids
