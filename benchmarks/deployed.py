"""The hosts of a molecule scenario, for a program that Molecule did not start."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


class MissingHostsError(Exception):
    """There are no hosts to measure; the text says how to make them."""


def enter(scenario: str) -> None:
    """Make this process one of the scenario's: only then import ``support.hosts``.

    Raises:
        MissingHostsError: when Molecule has not made its hosts.
    """
    kept = Path(os.environ.get("ANSIBLE_HOME", CHECKOUT / "runtime" / "ansible")) / "tmp"
    folders = [path.parent for path in kept.glob(f"molecule.*.{scenario}/inventory")]
    folders.sort(key=lambda folder: folder.stat().st_mtime)
    if not folders:
        raise MissingHostsError(
            f"the hosts of the scenario {scenario} are not in {kept}. "
            f"Run: molecule create -s {scenario}, then molecule prepare -s {scenario}"
        )
    os.environ.update(
        ANSIBLE_CONFIG=str(folders[-1] / "ansible.cfg"),
        MOLECULE_EPHEMERAL_DIRECTORY=str(folders[-1]),
        MOLECULE_PROJECT_DIRECTORY=str(CHECKOUT),
        MOLECULE_SCENARIO_NAME=scenario,
    )


def molecule(action: str, scenario: str) -> None:
    """One of Molecule's actions on a scenario, shown as it goes."""
    subprocess.run(["molecule", action, "-s", scenario], cwd=CHECKOUT, check=True)


def write(name: str, found: dict[str, Any]) -> None:
    """The figures, on the screen and in results/."""
    RESULTS.mkdir(exist_ok=True)
    document = json.dumps(found, indent=1)
    (RESULTS / f"{name}.json").write_text(document + "\n")
    print(document)
