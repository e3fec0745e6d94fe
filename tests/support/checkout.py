"""A copy of this checkout, with console.sh run in it as people run it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from .account import Account
from .leftovers import STATE, identity
from .processes import end_all, end_group, processes_of

SOURCE = Path(__file__).parents[2]
# A port where nothing listens: the hub can't be reached unless a test brings one.
NO_HUB = "http://127.0.0.1:9"
PASSED_ON = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "http_", "https_", "no_")
MODEL_PORTS = 8


@dataclass(frozen=True, slots=True)
class Run:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def screen(self) -> str:
        """What a person sees."""
        return self.out + self.err


@dataclass(slots=True)
class Checkout:
    """A checkout, who uses it, and the ports it was given."""

    path: Path
    account: Account
    environment: dict[str, str]
    proxy_port: int
    model_port: int
    postgres_port: int
    fresh: set[str] = field(default_factory=set)  # every path before anything was run
    first_start: Run | None = None
    _children: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy_port}"

    @property
    def state(self) -> Path:
        """Where root's files go when the services' user can't reach the checkout."""
        return STATE / identity(self.path)

    @property
    def service_user(self) -> str:
        """Who the services run as."""
        return f"llamakit-{identity(self.path)}" if self.account.uid == 0 else self.account.name

    def console(self, *arguments: str, **options: Any) -> Run:
        """``./console.sh ARGUMENTS``, to its end."""
        return self.run([str(self.path / "console.sh"), *arguments], **options)

    def run(
        self,
        command: list[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        seconds: float = 420,
    ) -> Run:
        """A command as the account, in its clean environment; killed with its group when late."""
        began = time.monotonic()
        child = self.spawn(command, cwd=cwd, env=env)
        try:
            out, err = child.communicate(stdin, seconds)
        except subprocess.TimeoutExpired:
            end_group(child.pid)
            out, err = child.communicate()
            raise AssertionError(f"{command} ran for {seconds} s:\n{out}{err}") from None
        return Run(child.returncode, out, err, time.monotonic() - began)

    def spawn(
        self, command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """The same, still running, the leader of its process group."""
        child = subprocess.Popen(
            command,
            cwd=cwd or self.path,
            env={**self.environment, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=0o022,
            start_new_session=True,
            **self.account.popen,
        )
        self._children.append(child)
        return child

    def start(self, *arguments: str, **options: Any) -> Run:
        """``start``, which has to succeed."""
        run = self.console("start", *arguments, **options)
        assert run.code == 0, run.screen
        return run

    def status(self) -> dict[str, Any]:
        """``status --json``."""
        run = self.console("status", "--json", seconds=30)
        assert run.out, run.screen
        status: dict[str, Any] = json.loads(run.out)
        return status

    def services(self) -> dict[str, dict[str, Any]]:
        """The services of the status by name."""
        return {service["name"]: service for service in self.status()["services"]}

    def pids(self) -> dict[str, int]:
        """The process id of each running service."""
        return {name: service["pid"] for name, service in self.services().items()}

    def all_up(self) -> bool:
        return bool(self.status()["overall"] == "up")

    def new_key(self, name: str, *options: str) -> str:
        """A key of a new user."""
        run = self.console("user", "create", "--username", name, *options)
        assert run.code == 0, run.screen
        return run.out.strip()

    def client(self, key: str | None = None) -> httpx.Client:
        """An HTTP client for the endpoint."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs from this checkout."""
        return processes_of([], [self.path, self.state])

    def supervisor_pid(self) -> int:
        return int((self.path / "runtime" / "run" / "supervisord.pid").read_text())

    def tree(self) -> set[str]:
        """Every path in the checkout, but for git's own."""
        return {
            str(path.relative_to(self.path))
            for path in self.path.rglob("*")
            if ".git" not in path.relative_to(self.path).parts
        }

    def discard(self) -> None:
        """Stops what runs, in an orderly way when that works."""
        for child in self._children:
            if child.poll() is None:
                end_group(child.pid)
            with contextlib.suppress(ValueError):  # its output was read to the end
                child.communicate()
        if (self.path / "runtime" / "state.json").exists():
            self.console("stop", seconds=120)
        end_all(self.processes)


def copy_checkout(
    target: Path, account: Account, wheelhouse: Path, pip_cache: Path, **environment: str
) -> Checkout:
    """A copy of what git would commit here, for the account, with ports of its own.

    The ports stand in config/local.env, where a person would write them.
    """
    command = ["git", "-c", "safe.directory=*", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=SOURCE, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (SOURCE / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, target / name, follow_symlinks=False)
    proxy, postgres, *models = free_ports(2 + MODEL_PORTS)
    (target / "config" / "local.env").write_text(
        f"# this machine's own\nLLAMA_PROXY_PORT={proxy}\n"
        f"LLAMA_SERVER_PORT={models[0]}\nPOSTGRES_AUTH_PORT={postgres}\n"
    )
    account.own(target)
    ours = str(Path(sys.prefix) / "bin")
    path = ":".join(part for part in os.environ["PATH"].split(":") if part != ours)
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)},
        "HOME": str(account.home),
        "PATH": path,
        "LANG": "C.UTF-8",
        "PIP_CACHE_DIR": str(pip_cache),
        "LLAMAKIT_WHEELHOUSE": str(wheelhouse),
        "HF_ENDPOINT": NO_HUB,
        **environment,
    }
    checkout = Checkout(target, account, environment, proxy, models[0], postgres)
    checkout.fresh = checkout.tree()
    return checkout


def free_ports(count: int) -> list[int]:
    """Ports in a row that nobody uses, out of reach of those the kernel hands out."""
    while True:
        first = random.randrange(20000, 32000)
        found = range(first, first + count)
        if all(_free(port) for port in found):
            return list(found)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    """A program of someone else's that has the port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def kill(pid: int) -> None:
    """What nobody can catch."""
    os.kill(pid, signal.SIGKILL)
