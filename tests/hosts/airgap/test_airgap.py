"""Hosts that have no network, deployed from a bundle by a machine that had none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hosts import Host
from support.podman import IDENTITY

UNPACKED = Path(f"/var/tmp/llamakit-airgap-{IDENTITY}/bundle")
ASK = """
import json, sys, urllib.request
body = {"model": "script", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
request = urllib.request.Request("http://127.0.0.1:8001/v1/chat/completions",
    json.dumps(body).encode(),
    {"Authorization": "Bearer " + sys.stdin.readline().strip(), "Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])
"""


def deploy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The unpacked checkout's own verb, without a network and without our settings."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": os.environ["HOME"]}
    if "CONTAINERS_CONF" in os.environ:
        environment["CONTAINERS_CONF"] = os.environ["CONTAINERS_CONF"]
    return subprocess.run(
        ["unshare", "--net", "./console.sh", "-l", "all", *arguments],
        cwd=UNPACKED,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_host_has_no_network(host: Host) -> None:
    assert [link["ifname"] for link in json.loads(host.run("ip -j link"))] == ["lo"]


def test_every_service_is_up(host: Host) -> None:
    assert host.up()


def test_the_host_proves_itself(host: Host) -> None:
    host.run("llamakit-users verify")


def test_a_person_gets_an_answer(host: Host) -> None:
    key = host.run(f"llamakit-users user create --username airgap-{os.getpid()}").split()[-1]
    host.run(f"cat >/tmp/ask.py <<'EOF'{ASK}EOF")
    assert host.run(f"echo {key} | python3 /tmp/ask.py").startswith("The quick brown")


def test_no_package_was_installed(host: Host) -> None:
    for package in ("python3-venv", "libgomp1", "postgresql", "gcc"):
        assert not host.system.package(package).is_installed


def test_the_models_are_those_of_the_manifest(host: Host) -> None:
    manifest = json.loads((UNPACKED / "bundle" / "manifest.json").read_text())
    [model] = [file for file in manifest["files"] if file["path"].startswith("bundle/models/")]
    assert host.run("ls /var/lib/llamakit/models") == "script.gguf"
    assert host.system.file("/var/lib/llamakit/models/script.gguf").sha256sum == model["sha256"]


def test_a_model_that_the_bundle_lacks_is_told_at_once(hosts: list[Host]) -> None:
    began = time.monotonic()
    run = deploy("start", "--model", "away")
    assert run.returncode == 1
    assert "The bundle does not have it" in run.stdout + run.stderr
    # Anything that waited for a name server or the hub would take longer.
    assert time.monotonic() - began < 120
    assert all(host.up() for host in hosts)


@pytest.fixture
def other_bundle() -> Iterator[None]:
    """A bundle without the packages for Debian 13."""
    file = UNPACKED / "bundle" / "manifest.json"
    kept = file.with_suffix(".kept")
    shutil.copyfile(file, kept)
    file.write_text(json.dumps({**json.loads(kept.read_text()), "python": ["3.11"]}))
    yield
    kept.replace(file)


@pytest.mark.usefixtures("other_bundle")
def test_a_bundle_for_another_python_is_refused_before_anything_changes() -> None:
    run = deploy("start")
    assert run.returncode == 1
    assert "cpu02 is cpu-" in run.stdout + run.stderr
    assert "./console.sh bundle --python 3.11,3.13" in run.stdout + run.stderr
