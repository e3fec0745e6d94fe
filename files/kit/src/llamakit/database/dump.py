"""What is in a dump: whether it is one of ours, and how many users and keys it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llamakit.database.problems import DatabaseError, explain
from llamakit.database.server import Server

# The tables that every release of the kit has, and whose rows a restore is measured by.
TABLES = ("schema_migrations", "users", "api_keys")
COPY = re.compile(r"COPY public\.(\w+) ")
END = "\\.\n"
COUNTS = """
SELECT concat_ws(' ', (SELECT count(*) FROM public.users), (SELECT count(*) FROM public.api_keys),
                 (SELECT coalesce(max(version), 0) FROM public.schema_migrations));
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """By what two states of the database are compared."""

    users: int
    keys: int
    schema: int
    """The number of the last migration."""

    def __str__(self) -> str:
        return f"{self.users} users, {self.keys} keys, schema {self.schema}"


def check(server: Server, file: Path) -> None:
    """DatabaseError unless the file is a whole archive's head, with the tables that must be there.

    Only the table of contents is read, so a large dump takes no longer.
    """
    listed = server.run("pg_restore", "--list", str(file))
    present = set(re.findall(r"^\d+; \d+ \d+ TABLE public (\S+) ", listed, re.MULTILINE))
    missing = [table for table in TABLES if table not in present]
    if missing:
        raise DatabaseError(
            f"{file} is a dump, but not of llamakit: it lacks the tables {', '.join(missing)}."
        )


def counts_in_file(server: Server, file: Path) -> Counts:
    """What the dump holds, read from its own data. DatabaseError when it can't be read."""
    tables = [f"--table={table}" for table in TABLES]
    child = server.start(
        "pg_restore", "--data-only", "--schema=public", *tables, "--file=-", str(file)
    )
    rows = dict.fromkeys(TABLES, 0)
    version = 0
    table = ""
    if child.stdout is None or child.stderr is None:
        raise AssertionError("started with pipes")
    with child:
        for line in child.stdout:
            if table and line == END:
                table = ""
            elif table:
                rows[table] += 1
                if table == "schema_migrations":
                    version = max(version, int(line.split("\t", 1)[0]))
            elif (match := COPY.match(line)) and match[1] in rows:
                table = match[1]
        errors = child.stderr.read()
    if child.returncode:
        raise explain("pg_restore", child.returncode, errors)
    return Counts(rows["users"], rows["api_keys"], version)


def counts_in_database(server: Server, database: str) -> Counts:
    """What the database holds now."""
    users, keys, schema = server.sql(COUNTS, database).split()
    return Counts(int(users), int(keys), int(schema))
