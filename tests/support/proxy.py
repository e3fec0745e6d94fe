"""A real proxy process for tests, with a database of its own and routes that a test can change."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import psycopg

from llamakit_proxy import users
from llamakit_proxy.database import Role, connect
from llamakit_proxy.settings import Settings, from_values
from llamakit_proxy.tls import client_context
from llamakit_proxy.verify import base_url

from .backend import KEY, free_port
from .postgres import Postgres
from .processes import wait_for

SOURCE = Path(__file__).parents[2] / "files" / "proxy_app" / "src"
_START_SECONDS = 30
# What a socket unit does: descriptor 3, and who it is for.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="proxy")
os.execv(sys.executable, [sys.executable, "-m", "llamakit_proxy", "serve"])
"""


@dataclass(slots=True)
class Proxy:
    """A running proxy."""

    environment: dict[str, str]
    settings: Settings
    folder: Path
    models: list[dict[str, Any]] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    python: str = sys.executable
    listener: socket.socket | None = None
    """Given to the process as a socket unit would."""
    _created: int = 0

    @property
    def port(self) -> int:
        return self.settings.proxy_port

    @property
    def url(self) -> str:
        return base_url(self.settings)

    @property
    def trust(self) -> ssl.SSLContext | bool:
        """What httpx verifies with."""
        return client_context(self.settings) or False

    @property
    def log(self) -> Path:
        return self.folder / "proxy.log"

    def start(self) -> None:
        """Start and wait until it answers."""
        self.launch()
        process = self.process
        assert process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.page("/healthz").status_code == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the proxy did not start:\n{self.log.read_text()[-2000:]}")

    def twin(self, folder: Path) -> "Proxy":
        """Another proxy on the same database, as on another host. It does not run yet."""
        values = {
            "LLAMA_PROXY_PORT": str(free_port()),
            "LLAMA_PROXY_ROUTES": str(folder / "proxy_routes.json"),
        }
        environment = {**self.environment, **values}
        twin = Proxy(environment, from_values(environment), folder, list(self.models))
        twin.write_routes()
        return twin

    def launch(self) -> None:
        """Start, and don't wait."""
        command, descriptors = ["-m", "llamakit_proxy", "serve"], []
        if self.listener is not None:
            descriptors = [self.listener.fileno()]
            command = ["-c", _AS_SYSTEMD, str(descriptors[0])]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, *command],
                stdout=log,
                stderr=log,
                env=self.environment,
                # In the folder of its Postgres, where it is found when the tests are killed.
                cwd=self.settings.secrets_dir,
                pass_fds=descriptors,
            )

    def page(self, path: str) -> httpx.Response:
        """A page that needs no key, over a connection of its own."""
        return httpx.get(f"{self.url}{path}", verify=self.trust, trust_env=False)

    def workers(self) -> list[psutil.Process]:
        """The master's living children."""
        assert self.process is not None
        living = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    living.append(child)
        return living

    def wait_for_log(self, text: str, seconds: float = 40) -> str:
        """The first line of the log with this text."""
        deadline = time.monotonic() + seconds
        while True:
            for line in self.log.read_text().splitlines():
                if text in line:
                    return line
            assert time.monotonic() < deadline, f"{text!r} not in:\n{self.log.read_text()[-2000:]}"
            time.sleep(0.02)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """End it; the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal_number)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process = None

    def route(self, name: str, url: str, **more: Any) -> None:
        """Add or replace a model and wait until the running proxy has taken it in."""
        self.models = [model for model in self.models if model["id"] != name]
        self.models.append(model_entry(name, url, **more))
        self.write_routes()
        if self.process is not None:
            self.wait_for_model(name)
            # The same name may have led elsewhere before.
            time.sleep(0.7)

    def write_routes(self) -> None:
        """Write the routes file as the kit does: whole, then renamed."""
        part = self.folder / "routes.part"
        part.write_text(json.dumps({"models": self.models}))
        part.replace(self.settings.routes_path)

    def wait_for_model(self, name: str) -> None:
        """Until readiness knows of the model."""
        deadline = time.monotonic() + 5
        while name not in self.page("/readyz").json()["models"]:
            assert time.monotonic() < deadline, f"{name} did not appear"
            time.sleep(0.05)

    def new_key(self, name: str = "user", **limits: Any) -> str:
        """A key of a new user. Without ``rate_limit`` there is none."""
        self._created += 1
        with self.admin() as connection:
            limits.setdefault("rate_limit", 0)
            return users.create(connection, f"{name}{self._created}", **limits).text

    @contextlib.contextmanager
    def admin(self) -> Iterator[psycopg.Connection]:
        """A connection of the database's owner."""
        with connect(self.settings, Role.ADMIN) as connection:
            yield connection

    def client(self, key: str, **options: Any) -> httpx.AsyncClient:
        """An HTTP client that sends the key."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
            verify=self.trust,
            **options,
        )

    def openai(self, key: str) -> openai.AsyncOpenAI:
        """OpenAI's own client."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=self.trust, trust_env=False),
        )

    def rows(self, count: int = 1) -> list[dict[str, Any]]:
        """The request log, oldest first, once it has at least ``count`` rows."""
        deadline = time.monotonic() + 10
        while True:
            with self.admin() as connection:
                cursor = connection.execute("SELECT * FROM llama_requests ORDER BY created_at")
                names = [column.name for column in cursor.description or ()]
                found = [dict(zip(names, row, strict=True)) for row in cursor]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} rows, expected {count}"
            time.sleep(0.1)

    def row(self, request_id: str) -> dict[str, Any]:
        """A request's row of the request log, once it is written. Those before it are, then."""
        found = wait_for(
            lambda: [row for row in self.rows() if row["request_id"] == request_id],
            10,
            f"a row of {request_id}",
        )
        return found[0]

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 when it has none with these labels yet."""
        wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
        text = self.page("/metrics").text
        assert f"# TYPE {name} " in text, f"/metrics has no {name}"
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            if head == (f"{name}{{{wanted}}}" if wanted else name):
                return float(value)
        return 0.0


def model_entry(name: str, url: str, **more: Any) -> dict[str, Any]:
    """A model of the routes file with one backend."""
    return {
        "id": name,
        "aliases": [],
        "created": 1700000000,
        "owned_by": "llamakit",
        "kind": "chat",
        "n_ctx": 2048,
        "max_tokens": 1024,
        "logprobs": False,
        "backends": [{"url": url, "api_key_secret": "llama_api_key", "capacity": 1}],
        **more,
    }


@contextlib.contextmanager
def running_proxy(
    postgres: Postgres, folder: Path, models: list[dict[str, Any]], **overrides: str
) -> Iterator[Proxy]:
    """A proxy for these models, gone afterwards. ``overrides`` are settings."""
    proxy = new_proxy(postgres, folder, models, **overrides)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.stop()


def new_proxy(
    postgres: Postgres, folder: Path, models: list[dict[str, Any]], **overrides: str
) -> Proxy:
    """All that a proxy for these models needs. It does not run yet."""
    overrides = {
        "LLAMA_PROXY_PORT": str(free_port()),
        "LLAMA_PROXY_ROUTES": str(folder / "proxy_routes.json"),
        **overrides,
    }
    settings = postgres.new_database(**overrides)
    (settings.secrets_dir / "llama_api_key").write_text(KEY)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        **postgres.environment(settings.postgres_db, **overrides),
    }
    proxy = Proxy(environment, settings, folder, list(models))
    proxy.write_routes()
    return proxy
