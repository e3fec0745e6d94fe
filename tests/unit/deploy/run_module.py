"""Runs a module of the kit as Ansible would on a host, without the second that a play takes."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).parents[3] / "playbooks" / "plugins"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit status (negative: the signal that ended it) and what the module returned."""

    code: int
    result: dict[str, Any]


def run_module(
    name: str, options: dict[str, Any], environment: dict[str, str], *, check_mode: bool = False
) -> Outcome:
    """Runs the module with these options in this environment, and in no other."""
    given = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check_mode}}
    run = subprocess.run(
        [sys.executable, __file__, str(PLUGINS / "modules" / f"{name}.py")],
        input=json.dumps(given),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if run.stdout.strip():
        return Outcome(run.returncode, json.loads(run.stdout))
    return Outcome(run.returncode, {"msg": run.stderr})


def main() -> None:
    # Ansible is not needed for the rest of this file.
    import ansible.module_utils
    from ansible.module_utils import basic

    # On a host the module's own parts lie beside Ansible's.
    ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))
    basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
    basic._ANSIBLE_PROFILE = "legacy"
    runpy.run_path(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    main()
