"""Makes a backup: a dump beside the others that is whole before it has its name."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from llamakit.database import dump
from llamakit.database.folder import PART, STAMP, Backup, alone, backups, sync
from llamakit.database.problems import DatabaseError
from llamakit.database.server import Server, connection, connection_string
from llamakit.database.settings import Settings, password


def make(settings: Settings) -> tuple[Backup, dump.Counts, list[Path]]:
    """Makes a backup and removes the oldest ones.

    Returns:
        The backup, what it holds, and the files that were removed.

    Raises:
        DatabaseError: nothing was made; the backups that were there still are.
    """
    if settings.keep < 1:
        raise DatabaseError(f"keep is {settings.keep}; expected 1 or more backups to be kept.")
    folder = Path(settings.backups_dir)
    # Read as root; the files are made as the user they belong to.
    secret = password(settings)
    become(settings.run_as)
    with connection(settings, secret) as server, alone(folder):
        _clear(folder)
        target = _new_name(folder)
        part = folder / f".{target.stem}.part"
        try:
            _dump(server, settings.database, part)
            dump.check(server, part)
            counts = dump.counts_in_file(server, part)
            part.rename(target)
            sync(folder)
        except OSError as error:
            raise DatabaseError(f"{part} can't be written: {error.strerror}.") from error
        finally:
            part.unlink(missing_ok=True)
        # Not by its name: a clock that was put right may have made older ones with later names.
        made, *others = sorted(backups(folder), key=lambda backup: backup.path != target)
        return made, counts, _prune(others, settings.keep - 1)


def become(user: str) -> None:
    """Root becomes the user for good; others stay who they are, and must be that user."""
    if not user:
        return
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise DatabaseError(f"there is no user {user}. Deploy again to make it.") from None
    if os.geteuid() == account.pw_uid:
        return
    if os.geteuid() != 0:
        raise DatabaseError(f"the backups belong to {user}, which you are not. Run it as root.")
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.chdir("/")


def _new_name(folder: Path) -> Path:
    """The name for a backup made now; names have seconds, so two in one second take two."""
    while True:
        target = folder / f"llamakit-{datetime.now(UTC).strftime(STAMP)}.dump"
        if not target.exists():
            return target
        time.sleep(0.1)


def _dump(server: Server, database: str, part: Path) -> None:
    """Writes a dump to a new file and to the disk."""
    # Made first, so that it is closed to others from the beginning.
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        server.run(
            "pg_dump",
            "--format=custom",
            "--lock-wait-timeout=60s",
            f"--file={part}",
            f"--dbname={connection_string(database)}",
        )
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Removes what runs that died left."""
    for part in folder.glob(PART):
        part.unlink(missing_ok=True)


def _prune(others: Sequence[Backup], keep: int) -> list[Path]:
    removed = [backup.path for backup in others[keep:]]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed
