"""The packages that came for the kit, in a small world of packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamakit import apt_packages
from llamakit.cli import main
from support.packages import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return World(tmp_path)


def test_all_that_comes_is_noted_once(world: World) -> None:
    world.install("zone")
    assert apt_packages.note(world.state, ["server"]) == ["library", "server", "server-15"]
    assert apt_packages.note(world.state, ["server"]) == []


def test_what_was_there_before_stays(world: World) -> None:
    world.install("zone")
    apt_packages.note(world.state, ["server"])
    world.install("zone", "server", "server-15", "library")
    assert apt_packages.own(world.state) == ["library", "server", "server-15"]


def test_what_somebody_needs_by_now_stays(world: World) -> None:
    apt_packages.note(world.state, ["server"])
    world.install("zone", "server", "server-15", "library", "editor")
    assert apt_packages.own(world.state) == ["library", "server", "server-15"]


def test_what_is_gone_already_is_not_named(world: World) -> None:
    apt_packages.note(world.state, ["server"])
    world.install("library", "zone")
    assert apt_packages.own(world.state) == ["library", "zone"]


def test_without_notes_there_is_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["own-packages", "--state-dir", str(world.state)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_package_that_there_is_not(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["note-packages", "--state-dir", str(world.state), "absent"]) == 1
    said = capsys.readouterr().err
    assert "apt-get can't install absent: E: Unable to locate package absent" in said
    assert "apt-get update && apt-get install --simulate absent" in said


def test_another_apt_at_work_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has just booted updates its lists by itself."""
    monkeypatch.setattr(apt_packages, "AGAIN_SECONDS", 0.01)
    world.busy(times=3)
    assert apt_packages.note(world.state, ["zone"]) == ["zone"]


def test_another_apt_that_does_not_end_is_told_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt_packages, "LOCK_SECONDS", 0.0)
    world.busy(times=3)
    with pytest.raises(apt_packages.AptError, match="Unable to lock"):
        apt_packages.note(world.state, ["zone"])
