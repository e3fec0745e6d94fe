"""The commands ``backup``, ``backups``, ``restore`` and ``restore-test``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from llamakit.arguments import Commands
from llamakit.database import backup, folder, restore, settings
from llamakit.database.problems import DatabaseError
from llamakit.quantities import duration, size

Run = Callable[[argparse.Namespace], int]


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the commands to the kit's command line."""
    make = commands.add_parser("backup", help="dump users, keys and the request log")
    make.add_argument("--keep", type=int, metavar="N", help="how many backups are kept")
    make.set_defaults(run=run_backup)

    shown = commands.add_parser("backups", help="the backups there are, the newest first")
    shown.add_argument("--json", action="store_true")
    shown.set_defaults(run=run_backups)

    put = commands.add_parser("restore", help="put a backup in the place of the database")
    put.add_argument("--yes", action="store_true", help="do it; without, only say what would be")
    put.set_defaults(run=run_restore)

    tried = commands.add_parser("restore-test", help="prove that a backup can be restored")
    tried.set_defaults(run=run_restore_test)

    for parser in (put, tried):
        parser.add_argument("backup", metavar="FILE|latest")
    for parser in (make, shown, put, tried):
        parser.add_argument("--settings", type=Path, default=settings.DEFAULT_FILE, metavar="FILE")
        parser.add_argument("--backups-dir", metavar="FOLDER")
        parser.add_argument("--bin-dir", metavar="FOLDER", help="where pg_dump and pg_restore are")


def guarded(run: Callable[[argparse.Namespace, settings.Settings], int]) -> Run:
    """The command with its settings read, and with its failures told in words."""

    @functools.wraps(run)
    def command(options: argparse.Namespace) -> int:
        try:
            found = settings.load(options.settings)
            given = {
                name: value
                for name in ("backups_dir", "bin_dir", "keep")
                if (value := getattr(options, name, None)) is not None
            }
            return run(options, dataclasses.replace(found, **given))
        except DatabaseError as error:
            print(f"{options.command}: {error}", file=sys.stderr)
            return 1

    return command


@guarded
def run_backup(_: argparse.Namespace, found: settings.Settings) -> int:
    """Prints what was made."""
    made, counts, removed = backup.make(found)
    _tell(f"{made.path}: {size(made.size)}, {counts}")
    if removed:
        _tell(f"removed {', '.join(path.name for path in removed)}")
    return 0


@guarded
def run_backups(options: argparse.Namespace, found: settings.Settings) -> int:
    """Prints a line for each backup."""
    made = folder.backups(Path(found.backups_dir))
    now = datetime.now(UTC)
    if options.json:
        rows = [
            {"file": str(one.path), "made": one.made.isoformat(), "bytes": one.size} for one in made
        ]
        json.dump(rows, sys.stdout, indent=2)
        print()
        return 0
    for one in made:
        age = duration((now - one.made).total_seconds())
        _tell(f"{one.path}  {size(one.size):>8}  {age} ago")
    if not made:
        _tell(f"There are no backups in {found.backups_dir}. `llamakit backup` makes one.")
    return 0


@guarded
def run_restore(options: argparse.Namespace, found: settings.Settings) -> int:
    """Prints each step, and where the database that was in use is now."""
    if not options.yes:
        file = folder.chosen(Path(found.backups_dir), options.backup)
        print(
            f"This would put {file} in the place of the database {found.database}: users, keys and "
            "requests made since then are gone from it.\nTo do it, add --yes",
            file=sys.stderr,
        )
        return 2
    done = restore.restore(found, options.backup, _tell)
    _tell(f"restored {done.file}: {done.counts}")
    if done.dropped:
        _tell(f"dropped what an earlier restore had kept: {', '.join(done.dropped)}")
    if done.kept_as:
        program = Path(found.bin_dir, "dropdb") if found.bin_dir else "dropdb"
        _tell(
            f"the database as it was is kept as {done.kept_as}, until the next restore. To drop it:"
            f"\n  {program} --host={found.host} --port={found.port} --username={found.user} "
            f"{done.kept_as}"
        )
    return 0


@guarded
def run_restore_test(options: argparse.Namespace, found: settings.Settings) -> int:
    """Prints each step; the exit status says whether the backup is good."""
    file, counts = restore.rehearse(found, options.backup, _tell)
    _tell(f"{file} can be restored: {counts}")
    return 0


def _tell(line: str) -> None:
    print(line, flush=True)
