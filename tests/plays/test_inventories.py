"""What inventories say, as console.sh and ansible-playbook hand it to the plays."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.leftovers import run_folder
from support.models import script_model
from support.play import CHECKOUT

NEEDED = [
    "ansible.cfg", "config", "console.sh", "files", "group_vars", "inventory", "playbooks",
    "requirements", "requirements.yml", "roles",
]  # fmt: skip
HOST = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
SHOWN = (
    "llamakit_checkout", "llamakit_secure_logging", "llama_server_mode", "llama_server_selected",
    "llama_server_port", "llama_server_accelerator", "llamakit_proxy_url",
)  # fmt: skip


class Kit:
    """A checkout with Ansible, whose site.yml tells what a play is given."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.path, self._told = place, folder / "told.json"
        for name in NEEDED:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            if (CHECKOUT / name).is_dir():
                shutil.copytree(CHECKOUT / name, place / name, symlinks=True)
            else:
                shutil.copy(CHECKOUT / name, place)
        controller = place / "runtime" / "controller"
        controller.mkdir(parents=True)
        for name in ("bin", "lib", "pyvenv.cfg"):
            (controller / name).symlink_to(Path(sys.prefix) / name)
        locks = ["requirements/controller.txt", "requirements/collections.txt", "requirements.yml"]
        sums = subprocess.run(["sha256sum", *locks], cwd=place, check=True, capture_output=True)
        version = "{}.{}".format(*sys.version_info)
        stamp = f"{hashlib.sha256(sums.stdout).hexdigest()[:16]}\n{version}\n"
        (controller / ".complete").write_text(stamp)
        values = ", ".join(f"'{name}': {name} | default('')" for name in SHOWN)
        tell = {"content": f"{{{{ {{{values}}} | to_json }}}}", "dest": str(self._told)}
        play = {"hosts": "llm_hosts", "gather_facts": False, "tasks": [{"copy": tell}]}
        (place / "playbooks" / "tell.yml").write_text(yaml.safe_dump([play]))
        self.site("tell")

    def site(self, *playbooks: str) -> None:
        """site.yml with these alone; as the kit's, it has nothing but imports."""
        imports = [{"import_playbook": f"playbooks/{name}.yml"} for name in playbooks]
        (self.path / "site.yml").write_text(yaml.safe_dump(imports))

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd or self.path, check=False, capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self._told.parent), "LANG": "C.UTF-8",
            },
        )  # fmt: skip

    def told(self, *command: str, code: int = 0, cwd: Path | None = None) -> dict[str, Any]:
        """What the play was given."""
        self._told.unlink(missing_ok=True)
        run = self.run(*command, cwd=cwd)
        assert run.returncode == code, run.stdout + run.stderr
        told: dict[str, Any] = json.loads(self._told.read_text())
        return told


@pytest.fixture
def folder() -> Iterator[Path]:
    """As root console.sh moves its folders elsewhere where others can't enter."""
    with run_folder() as folder:
        yield folder


@pytest.fixture
def kit(folder: Path) -> Kit:
    return Kit(folder / "kit", folder)


def write_inventory(folder: Path, group: str = "cpu", **files: dict[str, Any]) -> Path:
    """An inventory with one host, and files of variables beside it."""
    groups = {group: {"hosts": {"one": HOST}}}
    hosts = folder / "hosts.yml"
    folder.mkdir(exist_ok=True)
    hosts.write_text(yaml.safe_dump({"all": {"children": {"llm_hosts": {"children": groups}}}}))
    for name, values in files.items():
        file = folder / re.sub("__", "/", name)
        file.parent.mkdir(exist_ok=True)
        file.with_suffix(".yml").write_text(yaml.safe_dump(values))
    return hosts


def test_start_leaves_the_inventory_what_it_was_not_given(kit: Kit) -> None:
    chosen = {"llama_server_mode": "multi", "llama_server_selected": "theirs"}
    write_inventory(kit.path / "inventory", host_vars__one=chosen)
    start = ("./console.sh", "-l", "one", "start")
    assert chosen.items() < kit.told(*start).items()
    found = kit.told(*start, "--model", 'an "odd" one')
    assert (found["llama_server_mode"], found["llama_server_selected"]) == ("multi", 'an "odd" one')


def test_start_here_does_the_same(kit: Kit) -> None:
    models = {"models": [{"id": "ours", "source": {"path": "script.gguf"}}]}
    (kit.path / "config" / "models.yaml").write_text(yaml.safe_dump(models))
    script_model(kit.path / "models")
    chosen = {"llama_server_mode": "multi", "llama_server_selected": "theirs"}
    (kit.path / "inventory" / "host_vars").mkdir()
    (kit.path / "inventory" / "host_vars" / "localhost.yml").write_text(yaml.safe_dump(chosen))
    # The summary at the end finds nothing that was deployed.
    assert chosen.items() < kit.told("./console.sh", "start", code=1).items()
    found = kit.told("./console.sh", "start", "single", "--model", "ours", code=1)
    assert (found["llama_server_mode"], found["llama_server_selected"]) == ("single", "ours")


def test_an_inventory_may_lie_anywhere(kit: Kit, folder: Path) -> None:
    ours: dict[str, Any] = {"llama_server_mode": "multi", "llama_server_port": 9010}
    listens = {"auth_proxy_host": "::", "ansible_host": "2001:db8::7"}
    hosts = write_inventory(
        folder / "theirs",
        "gpu",
        group_vars__llm_hosts=ours | listens,
        group_vars__gpu={"llama_server_accelerator": "cuda"},
        host_vars__one={"llama_server_selected": "theirs"},
    )
    for command in (
        ("./console.sh", "-i", str(hosts), "-l", "one", "start"),
        ("ansible-playbook", "-i", str(hosts), "site.yml"),
        ("ansible-playbook", "-i", str(hosts), "playbooks/tell.yml"),
    ):
        found = kit.told(*command)
        assert found == {
            **ours,
            "llamakit_checkout": str(kit.path),
            "llamakit_secure_logging": True,
            "llama_server_selected": "theirs",
            "llama_server_accelerator": "cuda",
            "llamakit_proxy_url": "http://[2001:db8::7]:8001",
        }


def test_an_inventory_is_looked_for_where_one_stands(kit: Kit, folder: Path) -> None:
    """Though the kit has one of the same name."""
    write_inventory(kit.path / "inventory", host_vars__one={"llama_server_port": 9010})
    (folder / "theirs").mkdir()
    write_inventory(folder / "theirs" / "inventory", host_vars__one={"llama_server_port": 9020})
    start = (str(kit.path / "console.sh"), "-i", "inventory/hosts.yml", "-l", "one", "start")
    assert kit.told(*start, cwd=folder / "theirs")["llama_server_port"] == 9020
    assert kit.told(*start)["llama_server_port"] == 9010


def test_settings_that_would_be_ignored_are_refused(kit: Kit, folder: Path) -> None:
    kit.site("preflight", "tell")
    hosts = write_inventory(folder / "theirs", group_vars__all={"llama_server_port": 9010})
    run = kit.run("./console.sh", "-i", str(hosts), "-l", "one", "start")
    assert run.returncode == 1
    assert f"{folder}/theirs/group_vars/all.yml" in run.stdout + run.stderr
    assert f"{folder}/theirs/group_vars/llm_hosts.yml" in run.stdout + run.stderr


def test_main_yml_wins_over_what_the_kit_sets(kit: Kit) -> None:
    place = kit.path / "group_vars" / "all"
    names = {
        name for file in (place / "kit").glob("*.yml") for name in yaml.safe_load(file.read_text())
    }
    assert {"llamakit_packages", "auth_proxy_tls_names"} < names
    with (place / "main.yml").open("a") as main:
        main.write(yaml.safe_dump(dict.fromkeys(sorted(names), "ours")))
    run = kit.run("ansible-inventory", "--host", "gpu01")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {name for name in names if found[name] != "ours"} == set()


def test_what_a_host_says_keeps_its_streams_apart(kit: Kit, folder: Path) -> None:
    """So that a new key, or JSON, can be taken from stdout."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "llamakit-users").write_text('#!/bin/sh\necho "the key of $4"\necho created >&2\n')
    (programs / "llamakit-users").chmod(0o755)
    place = {"llamakit_programs_dir": str(programs)}
    write_inventory(kit.path / "inventory", host_vars__one=place)
    run = kit.run("./console.sh", "-l", "one", "user", "create", "--username", "alice")
    assert (run.returncode, run.stdout, run.stderr) == (0, "the key of alice\n", "created\n")
