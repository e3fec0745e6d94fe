"""Puts one database in the place of another while clients are connected to it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress

from llamakit.database.problems import DatabaseError, explain
from llamakit.database.server import Server, psql_arguments

PATIENCE_SECONDS = 60
POLL_SECONDS = 0.05

EXISTS = "SELECT count(*) FROM pg_database WHERE datname = :'database';"
KEEP = 'ALTER DATABASE :"database" RENAME TO :"kept_as";\n'
REPLACE = 'ALTER DATABASE :"scratch" RENAME TO :"database";\n'
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname IN (:'database', :'scratch');
"""
IN_USE = "is being accessed by other users"


def swap(server: Server, database: str, scratch: str, kept_as: str) -> bool:
    """Renames ``database`` to ``kept_as`` and ``scratch`` to ``database``, both or neither.

    A database with sessions can't be renamed, and clients come back at once when theirs end. But a
    rename first takes a lock that new sessions wait for, and then gives the present ones some
    seconds to go: ended in that time, they find the other database when they come back.

    Returns:
        Whether there was a ``database``.

    Raises:
        DatabaseError: nothing was renamed.
    """
    names = {"database": database, "scratch": scratch, "kept_as": kept_as}
    there = server.sql(EXISTS, **names).strip() != "0"
    renames = (KEEP if there else "") + REPLACE
    statements = f"SET lock_timeout = '30s';\nBEGIN;\n{renames}COMMIT;\n"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        code, errors = _try(server, statements, names)
        if not code:
            return there
        if IN_USE not in errors:
            raise explain("psql", code, errors)
        if time.monotonic() > deadline:
            raise DatabaseError(
                f"{database} is in use, and its sessions did not end within {PATIENCE_SECONDS} s. "
                f"Nothing was changed; try again.\n  {errors.strip()}"
            )


def _try(server: Server, statements: str, names: Mapping[str, str]) -> tuple[int, str]:
    """One attempt at the renames, ending sessions while they wait; exit status and stderr."""
    renames = server.start("psql", *psql_arguments("postgres", names), stdin=subprocess.PIPE)
    if renames.stdin is None:
        raise AssertionError("started with a pipe")
    try:
        # A psql that could not connect reads nothing; why not stands on its stderr.
        with suppress(BrokenPipeError):
            renames.stdin.write(statements)
            renames.stdin.flush()
        with suppress(BrokenPipeError):
            renames.stdin.close()
        while renames.poll() is None:
            server.sql(END_SESSIONS, **names)
            time.sleep(POLL_SECONDS)
        errors = renames.stderr.read() if renames.stderr else ""
    except BaseException:
        renames.kill()
        raise
    finally:
        renames.wait()
    return renames.returncode, errors
