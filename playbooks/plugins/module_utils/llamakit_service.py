"""A service of llamakit as its definition has it, and what each of its units was started with."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Service:
    """One definition, as the role service writes it into services.d, and the names of its units."""

    definition: dict[str, Any]
    prefix: str

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self.definition["name"])

    @property
    def unit(self) -> str:
        """The unit that runs the program."""
        return f"{self.prefix}{self.name}.service"

    @property
    def socket(self) -> str | None:
        """The unit that listens in its place."""
        return f"{self.prefix}{self.name}.socket" if self.definition.get("socket") else None

    @property
    def timer(self) -> str | None:
        """The unit that starts it when it is time."""
        return f"{self.prefix}{self.name}.timer" if self.definition.get("schedule") else None

    @property
    def units(self) -> list[str]:
        """All of them."""
        return [unit for unit in (self.socket, self.timer, self.unit) if unit]

    @property
    def lasting(self) -> list[str]:
        """Those that are up all the time, and from boot on."""
        return [self.timer] if self.timer else [u for u in (self.socket, self.unit) if u]

    @property
    def start_timeout(self) -> float:
        """How long it may take until it answers, in seconds."""
        return float(self.definition.get("start_timeout") or 60)

    @property
    def log(self) -> str:
        """The file it writes to; empty for the journal."""
        return str(self.definition.get("log") or "")

    @property
    def release(self) -> str | None:
        """What it takes up while it runs."""
        return self.definition.get("release")

    def hash_of(self, unit: str) -> str:
        """What the definition says that this unit runs with."""
        return str(self.definition["hash"]) if unit == self.unit else "unit"


def load(state_dir: str, prefix: str) -> list[Service]:
    """The services of services.d, by name."""
    folder = os.path.join(state_dir, "services.d")
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.endswith(".json"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found.append(Service(json.load(file), prefix))
    return found


def save(service: Service, state_dir: str) -> None:
    """Writes a definition as the role service does."""
    path = os.path.join(state_dir, "services.d", f"{service.name}.json")
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(json.dumps(service.definition, indent=4) + "\n")
    os.chmod(f"{path}.new", 0o644)
    os.replace(f"{path}.new", path)


class Stamps:
    """What each unit was last started with: the files ``UNIT@HASH`` of a folder.

    A stamp holds the digest of the unit's file. It is removed before a unit is touched and written
    when the service has answered, so what has a stamp is known to be good.
    """

    def __init__(self, folder: str, unit_dir: str) -> None:
        self._folder = folder
        self._unit_dir = unit_dir
        self._present = set(os.listdir(folder)) if os.path.isdir(folder) else set()

    def right(self, unit: str, hash_: str) -> bool:
        """Whether the unit was last started with what it is to run with now."""
        stamp = f"{unit}@{hash_}"
        if stamp not in self._present:
            return False
        with open(os.path.join(self._folder, stamp), encoding="utf-8") as file:
            return file.read() == self._digest(unit)

    def write(self, unit: str, hash_: str) -> None:
        """Notes that the unit runs with this, and nothing else."""
        if self.right(unit, hash_):
            return
        self.remove([unit])
        os.makedirs(self._folder, mode=0o755, exist_ok=True)
        stamp = f"{unit}@{hash_}"
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".stamp-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(self._digest(unit))
        os.chmod(temporary, 0o644)
        os.replace(temporary, os.path.join(self._folder, stamp))
        self._present.add(stamp)

    def remove(self, units: Iterable[str]) -> None:
        """Forgets what these were started with."""
        unwanted = set(units)
        for stamp in sorted(self._present):
            if stamp.rpartition("@")[0] in unwanted:
                os.unlink(os.path.join(self._folder, stamp))
                self._present.discard(stamp)

    def units(self) -> set[str]:
        """The units that have one."""
        return {stamp.rpartition("@")[0] for stamp in self._present if "@" in stamp}

    def _digest(self, unit: str) -> str:
        with open(os.path.join(self._unit_dir, unit), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
