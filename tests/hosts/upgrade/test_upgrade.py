"""The release before is deployed and used, then this checkout takes its place under load."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.hosts import Host, play
from support.load import Load
from support.models import SAY
from support.podman import CHECKOUT

# The first that could deploy hosts; a tag takes its place as soon as there is one.
FIRST = "1558123ee31322ae802f4bada3e1df8f21fd2125"


def git(*arguments: str) -> str:
    """What git says; nothing when it fails."""
    run = subprocess.run(
        ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return run.stdout.strip()


@pytest.fixture
def release_before(tmp_path: Path) -> Path:
    """A checkout of the last tag before this commit."""
    commit = git("describe", "--tags", "--abbrev=0", "HEAD^") or FIRST
    archive = subprocess.run(
        ["git", "archive", commit], cwd=CHECKOUT, capture_output=True, check=True
    )
    subprocess.run(
        ["tar", "--extract", f"--directory={tmp_path}"], input=archive.stdout, check=True
    )
    return tmp_path


def rows(host: Host) -> int:
    """How many requests the usage of the last days counts."""
    usage = json.loads(host.run("llamakit-users usage --json --user before"))
    return int(usage["total"]["requests"])


def test_users_keys_and_requests_survive_and_none_fails(cpu01: Host, release_before: Path) -> None:
    play(checkout=release_before)
    key = cpu01.new_key("before")
    with cpu01.openai(key) as client:
        client.chat.completions.create(
            model="script", messages=[{"role": "user", "content": "hello"}]
        )
    with Load(cpu01, key) as load:
        play("playbooks/upgrade.yml")
    assert load.failures == []
    assert load.sent > 100
    with cpu01.openai(key) as client:
        answer = client.chat.completions.create(
            model="script", messages=[{"role": "user", "content": "hello"}]
        )
    assert answer.choices[0].message.content == SAY
    assert rows(cpu01) >= 2
    assert cpu01.up()
    assert set(play().changed.values()) == {0}
