"""The ordinary user that console.sh is tried as: a new one where we are root, else ourselves."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import end_all, processes_of

PREFIX = "llamakit-test-"


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine, and a home folder that is the test's own."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def popen(self) -> dict[str, Any]:
        """What makes subprocess run a program as this user."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, *paths: Path) -> None:
        """Makes the paths, and what is below them, this user's."""
        if os.geteuid() != 0:
            return
        for path in paths:
            for inner in [path, *path.rglob("*")]:
                os.chown(inner, self.uid, self.gid, follow_symlinks=False)


def ourselves(home: Path) -> Account:
    """The account that the tests run as."""
    home.mkdir(parents=True)
    entry = pwd.getpwuid(os.getuid())
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, home)


@contextlib.contextmanager
def ordinary_user(home: Path) -> Iterator[Account]:
    """A user without rights; a new one is removed afterwards, with everything that still runs."""
    if os.geteuid() != 0:
        yield ourselves(home)
        return
    name = PREFIX + secrets.token_hex(3)
    command = ["useradd", "--create-home", "--home-dir", str(home), "--shell", "/bin/bash", name]
    subprocess.run(command, check=True, capture_output=True)
    entry = pwd.getpwnam(name)
    try:
        yield Account(name, entry.pw_uid, entry.pw_gid, home)
    finally:
        remove_user(name)


def remove_user(name: str) -> None:
    """Ends what runs as the user, and removes the user."""
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(name).pw_uid
        end_all(lambda: processes_of([uid], []))
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)
