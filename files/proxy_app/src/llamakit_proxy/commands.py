"""What the database commands have in common: a session, one line for an error, an exit code."""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence

import psycopg

from . import migrate
from .database import DatabaseError, Role, connect, explain_failure
from .settings import load
from .users import UserError

Handler = Callable[[psycopg.Connection, argparse.Namespace], int]


def guarded(work: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Turn the errors people can do something about into a line on stderr and exit code 1.

    A SettingsError goes on: what it means for the exit code is the same for all commands.
    """

    @functools.wraps(work)
    def run(args: argparse.Namespace) -> int:
        try:
            return work(args)
        except (DatabaseError, UserError) as error:
            print(f"error: {error}", file=sys.stderr)
        except psycopg.Error as error:
            print(f"error: {explain_failure(error)}", file=sys.stderr)
        return 1

    return run


def as_admin(handler: Handler) -> Callable[[argparse.Namespace], int]:
    """A command that works on a database whose schema is this release's."""

    @guarded
    @functools.wraps(handler)
    def run(args: argparse.Namespace) -> int:
        settings = load()
        with connect(settings, Role.ADMIN) as connection:
            migrate.check(connection, migrate.packaged())
            return handler(connection, args)

    return run


def print_json(document: object) -> None:
    """One JSON document on stdout; times are ISO 8601."""
    print(json.dumps(document, default=_plain, indent=2, ensure_ascii=False))


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    """Columns as wide as their widest cell; ``right`` names the columns set to the right.

    What a client chose, like the name of a model, can't command the terminal it is shown on.
    """
    table = [[_printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _plain(value: object) -> object:
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else str(value)
