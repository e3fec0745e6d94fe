"""Restores a dump: into a database beside the one in use, checked there, then swapped in."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llamakit.database import dump
from llamakit.database.folder import STAMP, alone, chosen
from llamakit.database.problems import DatabaseError
from llamakit.database.server import Server, connection, connection_string
from llamakit.database.settings import Settings, password
from llamakit.database.swap import swap

# What belongs to the server that the dump was made on, and not to the users and keys in it. Its
# roles may have other names here: owner and rights are given anew.
LEFT_OUT = (
    "--no-owner",
    "--no-acl",
    "--no-tablespaces",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
)
CREATE = """CREATE DATABASE :"name" OWNER :"owner" TEMPLATE template0 ENCODING 'UTF8';"""
RIGHTS = """
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"name" TO :"proxy";
ALTER SCHEMA public OWNER TO :"owner";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
"""
# A name of PostgreSQL's has at most 63 bytes, longer ones are cut without a word.
LONGEST_NAME = 63

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of a restore."""

    file: Path
    counts: dump.Counts
    kept_as: str | None
    """The name that the database which was in use has now; None when there was none."""
    dropped: list[str]
    """What earlier restores had kept."""


def restore(settings: Settings, wanted: str, tell: Tell) -> Restored:
    """Puts a backup in the place of the database.

    Args:
        wanted: latest, the name of a backup, or a path.
        tell: is given a line for each step.

    Raises:
        DatabaseError: the database is as it was before.
    """
    scratch = f"{settings.database}_restore"
    kept_as = f"{settings.database}_before_{datetime.now(UTC).strftime(STAMP)}"
    if len(kept_as.encode()) > LONGEST_NAME:
        raise DatabaseError(f"{kept_as} is too long for a database's name; expected 63 bytes.")
    folder = Path(settings.backups_dir)
    with connection(settings, password(settings)) as server, alone(folder):
        file = chosen(folder, wanted)
        counts = _load(server, settings, file, scratch, tell)
        try:
            tell(f"putting it in the place of {settings.database}")
            there = swap(server, settings.database, scratch, kept_as)
        except BaseException:
            _drop(server, scratch)
            raise
        dropped = _drop_older(server, settings.database, kept_as) if there else []
    return Restored(file, counts, kept_as if there else None, dropped)


def rehearse(settings: Settings, wanted: str, tell: Tell) -> tuple[Path, dump.Counts]:
    """Restores a backup into a database that is dropped again, to prove that it can be.

    Raises:
        DatabaseError: it can not.
    """
    scratch = f"{settings.database}_restore"
    folder = Path(settings.backups_dir)
    with connection(settings, password(settings)) as server, alone(folder):
        file = chosen(folder, wanted)
        counts = _load(server, settings, file, scratch, tell)
        _drop(server, scratch)
    return file, counts


def _load(server: Server, settings: Settings, file: Path, scratch: str, tell: Tell) -> dump.Counts:
    """Fills the database ``scratch`` from the file and checks it; what it holds.

    When that fails there is no such database.
    """
    dump.check(server, file)
    expected = dump.counts_in_file(server, file)
    tell(f"{file}: {expected}")
    tell(f"restoring it into {scratch}")
    try:
        _create(server, settings, scratch)
        server.run(
            "pg_restore",
            *LEFT_OUT,
            "--exit-on-error",
            f"--role={settings.owner}",
            f"--dbname={connection_string(scratch)}",
            str(file),
        )
        found = dump.counts_in_database(server, scratch)
        if found != expected:
            raise DatabaseError(
                f"{file} holds {expected}, and what was restored from it {found}. "
                "Nothing was changed; try an older backup."
            )
        tell("bringing its schema and rights up to date")
        _initialise(settings, scratch)
    except BaseException:
        _drop(server, scratch)
        raise
    return expected


def _create(server: Server, settings: Settings, scratch: str) -> None:
    """An empty database with the rights that a deployment gives."""
    _drop(server, scratch)
    names = {"name": scratch, "owner": settings.owner, "proxy": settings.proxy_role}
    roles = server.sql(
        "SELECT rolname FROM pg_roles WHERE rolname IN (:'owner', :'proxy');", **names
    ).splitlines()
    missing = {settings.owner, settings.proxy_role} - set(roles)
    if missing:
        raise DatabaseError(
            f"the server has no role {' and no role '.join(sorted(missing))}. Deploy first "
            "(`./console.sh start`, or site.yml on a host), which makes them; then restore."
        )
    server.sql(CREATE, **names)
    server.sql(RIGHTS, scratch, **names)


def _initialise(settings: Settings, scratch: str) -> None:
    """Migrates what an older release had dumped, and gives the proxy its rights."""
    if not settings.init_command:
        raise DatabaseError(
            "the settings name no init_command, which gives the proxy its rights. Deploy again."
        )
    try:
        run = subprocess.run(
            settings.init_command,
            env={**os.environ, "POSTGRES_AUTH_DB": scratch},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        raise DatabaseError(
            f"{settings.init_command[0]} can't be run: {error.strerror}. Deploy again."
        ) from None
    if run.returncode:
        raise DatabaseError(
            f"the restored schema could not be brought up to date:\n  {run.stdout.strip()[-1200:]}"
        )


def _drop(server: Server, database: str) -> None:
    server.sql('DROP DATABASE IF EXISTS :"name" WITH (FORCE);', name=database)


def _drop_older(server: Server, database: str, newest: str) -> list[str]:
    """Drops what earlier restores kept; only the last one is worth its room on the disk."""
    pattern = re.compile(re.escape(database) + r"_before_\d{8}T\d{6}Z")
    names = server.sql("SELECT datname FROM pg_database ORDER BY datname;").splitlines()
    older = [name for name in names if pattern.fullmatch(name) and name != newest]
    for name in older:
        _drop(server, name)
    return older
