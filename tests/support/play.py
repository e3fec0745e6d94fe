"""Runs a play of the kit's own Ansible on this machine, in a folder of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Play:
    """What came of it: the exit status, all output, and the registered variable ``result``."""

    code: int
    output: str
    result: Any


def run_tasks(
    folder: Path,
    tasks: list[dict[str, Any]],
    *arguments: str,
    inventory: str = "localhost,",
    vars_files: Sequence[Path] = (),
    **variables: Any,
) -> Play:
    """Runs the tasks; whatever they register as ``result`` is handed back.

    Args:
        folder: gets the play and its result.
        arguments: for ansible-playbook.
        inventory: an inventory with the host localhost.
        vars_files: files of variables, which ``variables`` override.
        variables: as with ``-e``, so that nothing overrides them.
    """
    answer = folder / "result.json"
    answer.unlink(missing_ok=True)
    keep = {
        "name": "Keep the result",
        "ansible.builtin.copy": {
            "dest": str(answer),
            "content": "{{ result | default(omit) | to_json }}",
            "mode": "0600",
        },
        "check_mode": False,
        "no_log": True,
    }
    play = {
        "name": "A test",
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(path) for path in vars_files],
        "tasks": [*tasks, keep],
    }
    playbook = folder / "play.yml"
    playbook.write_text(yaml.safe_dump([play]))
    given = folder / "variables.json"
    given.write_text(json.dumps({"ansible_python_interpreter": sys.executable, **variables}))
    ansible = Path(sys.executable).with_name("ansible-playbook")
    run = subprocess.run(
        [str(ansible), "-i", inventory, "-e", f"@{given}", *arguments, str(playbook)],
        cwd=folder,
        env={
            "PATH": f"{ansible.parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "ansible"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    result = json.loads(answer.read_text()) if answer.exists() else None
    return Play(run.returncode, run.stdout + run.stderr, result)
