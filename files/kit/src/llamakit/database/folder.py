"""The folder with the backups: their names, which one is the latest, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llamakit.database.problems import DatabaseError

STAMP = "%Y%m%dT%H%M%SZ"
NAME = re.compile(r"llamakit-(\d{8}T\d{6}Z)\.dump")
# Hidden, and not matched by NAME: what a run that died left is never taken for a backup.
PART = ".llamakit-*.part"


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup."""

    path: Path
    made: datetime
    size: int
    """In bytes."""


def backups(folder: Path) -> list[Backup]:
    """The finished backups, the newest first; none when there is no such folder."""
    found = []
    try:
        names = sorted((one.name for one in folder.iterdir()), reverse=True)
    except FileNotFoundError:
        return []
    except PermissionError:
        raise DatabaseError(f"{folder} can't be read by you. Run it as root.") from None
    for name in names:
        match = NAME.fullmatch(name)
        if match:
            made = datetime.fromisoformat(match[1])
            # Another run may remove one meanwhile.
            with suppress(FileNotFoundError):
                found.append(Backup(folder / name, made, (folder / name).stat().st_size))
    return found


def chosen(folder: Path, wanted: str) -> Path:
    """The file that ``wanted`` means: latest, a name in the folder, or a path."""
    if wanted == "latest":
        found = backups(folder)
        if not found:
            raise DatabaseError(f"there is no backup in {folder}. `llamakit backup` makes one.")
        return found[0].path
    for path in (Path(wanted), folder / wanted):
        if path.is_file():
            return path.absolute()
    raise DatabaseError(
        f"there is no file {wanted}, neither as named nor in {folder}. "
        "`llamakit backups` lists those there are."
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process. DatabaseError when another has it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise DatabaseError(f"the folder {folder} is not there. Deploy again to make it.") from None
    except PermissionError:
        raise DatabaseError(f"{folder} can't be read by you. Run it as root.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise DatabaseError(
            "another backup or restore is at work. Wait for it to end, then try again."
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def sync(folder: Path) -> None:
    """Makes what was renamed in the folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
