"""The distribution's packages that came for the kit: noted before they come, so that they can go.

apt itself keeps a package that another one only suggests, and nobody can tell afterwards why it is
there. So the names of all that an installation brings are kept in ``packages.d``, a file each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from llamakit.arguments import Commands

# A package that is only upgraded has its present version in brackets.
_NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)
_GONE = re.compile(r"^(?:Remv|Purg) (\S+) ", re.MULTILINE)
_LOCKED = re.compile(r"^E: (?:Could not get lock|Unable to lock) ", re.MULTILINE)
LOCK_SECONDS = 300.0
"""How long another apt may be at work: a host that has just booted updates its lists by itself."""
AGAIN_SECONDS = 2.0


class AptError(Exception):
    """apt-get failed; the message is its own last words."""


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``note-packages`` and ``own-packages`` to the kit's command line."""
    note = commands.add_parser("note-packages", help="note what installing these would bring")
    note.add_argument("--state-dir", type=Path, required=True)
    note.add_argument("names", nargs="+", metavar="PACKAGE")
    note.set_defaults(run=run_note)
    own = commands.add_parser("own-packages", help="what was noted and nobody else needs, as JSON")
    own.add_argument("--state-dir", type=Path, required=True)
    own.set_defaults(run=run_own)


def run_note(options: argparse.Namespace) -> int:
    """Prints the names that were noted now; exit status 1 when apt-get can't tell them."""
    try:
        noted = note(options.state_dir, options.names)
    except AptError as error:
        print(
            f"apt-get can't install {' '.join(options.names)}: {error}\nSee why with: "
            f"apt-get update && apt-get install --simulate {' '.join(options.names)}",
            file=sys.stderr,
        )
        return 1
    print(json.dumps(noted))
    return 0


def run_own(options: argparse.Namespace) -> int:
    """Prints a list of names."""
    print(json.dumps(own(options.state_dir)))
    return 0


def note(state_dir: Path, names: Iterable[str]) -> list[str]:
    """Notes what installing these packages would bring; returns what was not noted before.

    Raises:
        AptError: apt-get knows no way to install them.
    """
    command = ["install", "--no-install-recommends", *names]
    try:
        said = _simulate(*command)
    except AptError:
        # It has no lists of packages yet, or old ones.
        _apt("update", "--quiet")
        said = _simulate(*command)
    folder = state_dir / "packages.d"
    folder.mkdir(parents=True, exist_ok=True)
    new = [name for name in _NEW.findall(said) if not (folder / name).exists()]
    for name in new:
        (folder / name).touch()
    return sorted(new)


def own(state_dir: Path) -> list[str]:
    """The noted packages that are here and can go without one that is not noted going, too."""
    folder = state_dir / "packages.d"
    noted = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    here = noted & _installed()
    if not here or _goes_with(*here) <= noted:
        return sorted(here)
    return sorted(name for name in here if _goes_with(name) <= noted)


def _goes_with(*names: str) -> set[str]:
    """All that purging these packages removes, themselves among it."""
    return set(_GONE.findall(_simulate("purge", *names)))


def _installed() -> set[str]:
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pairs = (line.rpartition(" ") for line in shown.splitlines())
    return {name for name, _, status in pairs if status == "installed"}


def _simulate(*arguments: str) -> str:
    return _apt("--simulate", *arguments)


def _apt(*arguments: str) -> str:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        result = subprocess.run(
            ["apt-get", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
        locked = result.returncode != 0 and _LOCKED.search(result.stderr)
        if not locked or time.monotonic() > deadline:
            break
        time.sleep(AGAIN_SECONDS)
    if result.returncode != 0:
        raise AptError((result.stderr.strip().splitlines() or ["no reason given"])[-1])
    return result.stdout
