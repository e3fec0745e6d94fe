"""The plays note the packages that come for the kit, and find them again without the kit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.packages import World
from support.play import CHECKOUT, Play, run_tasks

PROGRAM = f"""#!/bin/sh
PYTHONPATH={CHECKOUT}/files/kit/src exec {sys.executable} -m llamakit "$@"
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The small world of packages, whose programs come first on the path."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return World(tmp_path)


def tasks(file: str, *names: str) -> list[dict[str, Any]]:
    """The tasks of these names, in a file of tasks or in its first play."""
    found = yaml.safe_load((CHECKOUT / file).read_text())
    wanted = [task for task in found[0].get("tasks", found) if task["name"] in names]
    assert len(wanted) == len(names)
    return wanted


def run(world: World, chosen: list[dict[str, Any]], **variables: Any) -> Play:
    played = run_tasks(
        world.folder,
        chosen,
        llamakit_state_dir=str(world.state),
        llama_server_state_dir=str(world.state),
        **variables,
    )
    assert played.code == 0, played.output
    return played


def test_the_compilers_are_noted(world: World) -> None:
    kit = world.folder / "llamakit"
    kit.write_text(PROGRAM)
    kit.chmod(0o755)
    note = tasks("roles/llama_server/tasks/build.yml", "Note which packages come for the kit")
    given = {"llama_server_kit": str(kit), "llama_server_build_packages": ["server", "zone"]}
    world.install("zone")
    assert "changed=2 " in run(world, note, result="", **given).output
    assert {file.name for file in (world.state / "packages.d").iterdir()} == {
        "library", "server", "server-15",
    }  # fmt: skip
    assert "changed=1 " in run(world, note, result="", **given).output


def test_a_purge_after_an_uninstall_finds_them(world: World) -> None:
    (world.state / "packages.d").mkdir(parents=True)
    for name in ("server", "server-15"):
        (world.state / "packages.d" / name).touch()
    world.install("server", "server-15", "zone")
    find = tasks(
        "playbooks/uninstall.yml",
        "Look for the list of packages that came for the kit",
        "Find those of them that nobody else needs",
    )
    keep = {
        "name": "Keep them",
        "ansible.builtin.set_fact": {
            "result": "{{ __llamakit_packages.stdout | default('[]', true) | from_json }}"
        },
    }
    # The kit's own program is not there any more.
    given = {"llamakit_place": "host", "llamakit_host_command": [str(world.folder / "gone")]}
    played = run(world, [*find, keep], llamakit_purge=True, **given)
    assert played.result == ["server", "server-15"]
    assert run(world, [*find, keep], llamakit_purge=False, **given).result == []
