"""Stands in for systemctl where a test needs it to fail or to die; it only keeps book.

The folder in FAKE_SYSTEMD has ``active`` (the units that are up), ``calls`` (what was asked for),
``units`` (their files) and, to put in a fault, ``kill`` or ``fail`` with the verb it is for.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_SYSTEMD"])
WANTED_BY = {"t.target": "multi-user.target"}


def active() -> set[str]:
    file = FOLDER / "active"
    return set(file.read_text().split()) if file.exists() else set()


def show(units: list[str]) -> None:
    for unit in units:
        state = ("active", "running") if unit in active() else ("inactive", "dead")
        print(f"Id={unit}\nLoadState=loaded\nActiveState={state[0]}\nSubState={state[1]}")
        print("NRestarts=0\nNeedDaemonReload=no\n")


def act(verb: str, units: set[str]) -> None:
    if verb in {"start", "restart"}:
        (FOLDER / "active").write_text(" ".join(active() | units))
    elif verb == "stop":
        (FOLDER / "active").write_text(" ".join(active() - units))
    for unit in units if verb in {"reenable", "disable"} else ():
        link = FOLDER / "units" / f"{WANTED_BY.get(unit, 't.target')}.wants" / unit
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        if verb == "reenable":
            link.symlink_to(FOLDER / "units" / unit)


def main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    verb, units = words[0], words[1:]
    if verb == "show":
        show(units)
        return 0
    with (FOLDER / "calls").open("a") as calls:
        print(verb, *sorted(units), file=calls)
    for fault in ("kill", "fail"):
        file = FOLDER / fault
        if file.exists() and file.read_text() == verb:
            file.unlink()
            if fault == "kill":
                os.kill(os.getppid(), signal.SIGKILL)
            print(f"{verb} was refused", file=sys.stderr)
            return 1
    act(verb, set(units))
    return 0


if __name__ == "__main__":
    sys.exit(main())
