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
    own, usual = CHECKOUT / "runtime" / "ansible", Path.home() / ".ansible"
    homes = (os.environ.get("ANSIBLE_HOME"), own, usual)
    found = [
        path.parent
        for home in homes
        if home
        for path in Path(home).glob(f"tmp/molecule.*.{scenario}/inventory")
    ]
    if not found:
        raise MissingHostsError(
            f"Molecule has no hosts of the scenario {scenario}. "
            f"Run: molecule create -s {scenario}, then molecule prepare -s {scenario}"
        )
    folder = max(found, key=lambda folder: folder.stat().st_mtime)
    os.environ.update(
        ANSIBLE_CONFIG=str(folder / "ansible.cfg"),
        MOLECULE_EPHEMERAL_DIRECTORY=str(folder),
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
