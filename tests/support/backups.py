"""The kit's backup commands on a test's database, each in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from llamakit_proxy.settings import Settings

from .command import Result
from .postgres import Postgres

CHECKOUT = Path(__file__).parents[2]
KIT = CHECKOUT / "files" / "kit" / "src"
PROXY = CHECKOUT / "files" / "proxy_app" / "src"


@dataclasses.dataclass(slots=True)
class Backups:
    """A folder for backups and the settings of the database that belongs into it."""

    folder: Path
    settings_file: Path

    @property
    def names(self) -> list[str]:
        """The finished backups, the newest first."""
        return sorted((path.name for path in self.folder.glob("llamakit-*.dump")), reverse=True)

    @property
    def leftovers(self) -> list[str]:
        """Whatever lies in the folder and is no finished backup."""
        return sorted({path.name for path in self.folder.iterdir()} - set(self.names))

    def start(
        self, *arguments: str, limit: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a command with host's Python and nothing but its own library."""
        return subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-m",
                "llamakit",
                *arguments,
                f"--settings={self.settings_file}",
            ],
            env={"PYTHONPATH": str(KIT), "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,
        )

    def run(self, *arguments: str, limit: Callable[[], None] | None = None) -> Result:
        """Runs a command to its end."""
        child = self.start(*arguments, limit=limit)
        out, errors = child.communicate(timeout=120)
        return Result(child.returncode, out, errors)

    def make(self) -> str:
        """Makes a backup; its file's name."""
        done = self.run("backup")
        assert done.code == 0, done.err
        return self.names[0]

    def set(self, **values: object) -> None:
        """Changes settings."""
        found = json.loads(self.settings_file.read_text())
        self.settings_file.write_text(json.dumps({**found, **values}))


def backups_of(postgres: Postgres, settings: Settings, folder: Path) -> Backups:
    """The commands for a database, with a folder of its own below ``folder``."""
    made = folder / "backups"
    made.mkdir()
    environment = dict(postgres.environment(settings.postgres_db))
    # The command is told which database by whoever restores one.
    del environment["POSTGRES_AUTH_DB"]
    pairs = [f"{name}={value}" for name, value in environment.items()]
    file = folder / "database.json"
    file.write_text(
        json.dumps(
            {
                "backups_dir": str(made),
                "host": "127.0.0.1",
                "port": postgres.port,
                "database": settings.postgres_db,
                "owner": settings.postgres_admin_user,
                "proxy_role": settings.postgres_user,
                "password_secret": "postgres_superuser_password",
                "secrets_dir": str(settings.secrets_dir),
                "bin_dir": str(postgres.binaries),
                "init_command": [
                    *("env", f"PYTHONPATH={PROXY}", *pairs),
                    *(sys.executable, "-m", "llamakit_proxy", "init-db"),
                ],
            }
        )
    )
    return Backups(made, file)
