"""Runs PostgreSQL's programs against one server, without showing anybody the password."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llamakit.database.problems import DatabaseError, explain
from llamakit.database.settings import Settings

CONNECT_SECONDS = 10
SESSION = {"statement_timeout": "0", "client_min_messages": "warning", "lc_messages": "C"}


class Server:
    """The server that the settings name. Made by ``connection``."""

    def __init__(self, settings: Settings, password_file: int | None) -> None:
        self._settings = settings
        self._passed = () if password_file is None else (password_file,)
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "PGHOST": settings.host,
            "PGPORT": str(settings.port),
            "PGUSER": settings.user,
            "PGAPPNAME": "llamakit backup",
            "PGCONNECT_TIMEOUT": str(CONNECT_SECONDS),
            # Neither a server's nor a role's limit for its everyday statements is meant for this.
            "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in SESSION.items()),
        }
        if password_file is not None:
            self._environment["PGPASSFILE"] = f"/proc/self/fd/{password_file}"

    def start(
        self, program: str, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """Starts a program whose stdout and stderr are pipes."""
        folder = self._settings.bin_dir
        try:
            return subprocess.Popen(
                [str(Path(folder, program)) if folder else program, *arguments],
                env=self._environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=self._passed,
                text=True,
                errors="replace",
            )
        except FileNotFoundError:
            raise DatabaseError(
                f"{program} is not {f'in {folder}' if folder else 'on the PATH'}. Name the folder "
                "with PostgreSQL's programs with --bin-dir."
            ) from None

    def run(self, program: str, *arguments: str, text: str | None = None) -> str:
        """Runs a program, which reads ``text``; what it printed. DatabaseError when it fails."""
        child = self.start(
            program, *arguments, stdin=subprocess.DEVNULL if text is None else subprocess.PIPE
        )
        try:
            out, errors = child.communicate(text)
        except BaseException:
            child.kill()
            child.wait()
            raise
        if child.returncode:
            raise explain(program, child.returncode, errors)
        return out

    def sql(self, statements: str, /, within: str = "postgres", **values: str) -> str:
        """Runs SQL, each statement by itself; what it returned, unaligned and without headers.

        Args:
            within: the database.
            values: psql quotes them, where the SQL has ``:'name'`` for a text or ``:"name"`` for a
                name of PostgreSQL's.
        """
        return self.run("psql", *psql_arguments(within, values), text=statements)


def psql_arguments(database: str, values: Mapping[str, str]) -> list[str]:
    """For a psql that reads SQL and prints nothing but what it returns."""
    return [
        *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"),
        *(f"--set={name}={value}" for name, value in values.items()),
        f"--dbname={connection_string(database)}",
    ]


@contextmanager
def connection(settings: Settings, secret: str | None) -> Iterator[Server]:
    """The server of the settings; its password lives in a file that has no name and no disk."""
    if secret is None:
        yield Server(settings, None)
        return
    escaped = secret.replace("\\", "\\\\").replace(":", "\\:")
    file = os.memfd_create("password")
    try:
        # What libpq insists on: a password file is its owner's alone.
        os.fchmod(file, 0o600)
        os.write(file, f"*:*:*:*:{escaped}\n".encode())
        yield Server(settings, file)
    finally:
        os.close(file)


def connection_string(database: str) -> str:
    """libpq's words for a database, whatever characters its name has."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
