"""What the benchmarks run on: a backend that costs nothing, PostgreSQL, the proxy, and its peers.

Load, backend and PostgreSQL have the first core, what is measured the second one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from support.backend import free_port
from support.postgres import Postgres, running_postgres
from support.proxy import Proxy, model_entry, running_proxy

HERE = Path(__file__).parent
LOAD_CORE, PROXY_CORE = 0, 1
MODEL = "mock"
PEER_KEY = "sk-peer-0123456789abcdef"
_START_SECONDS = 90
_CAPACITY = 2_000
"""Requests that the backend takes at a time: the queue is on the way, and nobody waits in it."""
RATE_LIMIT = 10_000_000
"""Counted, and never reached."""


class MissingError(Exception):
    """A program that a part of the benchmark needs is not here; the text says which."""


@dataclass(slots=True)
class Subject:
    """Something that answers chat requests, and whose cost is measured."""

    name: str
    port: int
    key: str
    root: psutil.Process | None
    """None for the backend asked directly: it is not measured."""
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def processes(self) -> list[psutil.Process]:
        """Its processes, workers included."""
        return [] if self.root is None else [self.root, *self.root.children(recursive=True)]


@dataclass(slots=True)
class Stack:
    """What everything shares."""

    folder: Path
    backend_port: int
    backend: psutil.Process
    postgres: Postgres

    def direct(self) -> Subject:
        """The backend without anything in front of it."""
        return Subject("direct", self.backend_port, "none", None)

    def stats(self) -> dict[str, int]:
        """The backend's counters."""
        counters: dict[str, int] = httpx.get(
            f"http://127.0.0.1:{self.backend_port}/stats", trust_env=False
        ).json()
        return counters


def pin(processes: Iterable[psutil.Process], core: int) -> None:
    """Keep processes, with all threads they have now, on one core."""
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, {core})


def process_of(process: subprocess.Popen[bytes] | None) -> psutil.Process:
    """The same process, to be measured. RuntimeError when it does not run."""
    if process is None:
        raise RuntimeError("it does not run")
    return psutil.Process(process.pid)


def processes_of(postgres: Postgres) -> list[psutil.Process]:
    """PostgreSQL's processes."""
    if postgres.pid is None:
        return []
    main = psutil.Process(postgres.pid)
    return [main, *main.children(recursive=True)]


def on_core(core: int, command: Iterable[str]) -> list[str]:
    """The command, to be run on one core."""
    return ["taskset", "--cpu-list", str(core), *command]


def compile_native(folder: Path) -> dict[str, Path]:
    """The two C programs, compiled into a folder, by name. MissingError without a compiler."""
    if shutil.which("gcc") is None:
        raise MissingError("gcc is not here. Run: apt-get install gcc libc6-dev")
    programs = {}
    for source in sorted((HERE / "native").glob("*.c")):
        programs[source.stem] = folder / source.stem
        subprocess.run(["gcc", "-O2", "-o", folder / source.stem, source], check=True)
    return programs


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this program as Ctrl-C does: with all that it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))


@contextlib.contextmanager
def running_stack(folder: Path) -> Iterator[Stack]:
    """Backend and PostgreSQL, gone afterwards. ``folder`` holds programs and logs."""
    programs = compile_native(folder)
    port = free_port()
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(
            running(on_core(LOAD_CORE, [str(programs["backend"]), str(port)]), folder, "backend")
        )
        postgres = stack.enter_context(running_postgres())
        _as_in_production(postgres)
        wait_for_answer(f"http://127.0.0.1:{port}/stats", backend, folder / "backend.log")
        yield Stack(folder, port, psutil.Process(backend.pid), postgres)


def _as_in_production(postgres: Postgres) -> None:
    """The tests' server logs every statement and syncs nothing."""
    with postgres.connect() as connection:
        for setting in (
            "log_statement = 'none'",
            "log_min_duration_statement = -1",
            "log_connections = off",
            "fsync = on",
        ):
            connection.execute(f"ALTER SYSTEM SET {setting}")
        connection.execute("SELECT pg_reload_conf()")
    pin(processes_of(postgres), LOAD_CORE)


def backend_model(stack: Stack) -> dict[str, Any]:
    """The backend as a model of the routes file."""
    url = f"http://127.0.0.1:{stack.backend_port}"
    model = model_entry(MODEL, url, n_ctx=8192, max_tokens=8000)
    model["backends"][0]["capacity"] = _CAPACITY
    return model


@contextlib.contextmanager
def proxy_subject(
    stack: Stack, name: str = "llamakit", **overrides: str
) -> Iterator[tuple[Subject, Proxy]]:
    """The proxy as a deployment runs it: keys, limits, queue, metrics, log line and log row."""
    folder = stack.folder / name
    folder.mkdir(exist_ok=True)
    with running_proxy(stack.postgres, folder, [backend_model(stack)], **overrides) as proxy:
        subject = Subject(
            name, proxy.port, proxy.new_key(rate_limit=RATE_LIMIT), process_of(proxy.process)
        )
        pin(subject.processes(), PROXY_CORE)
        yield subject, proxy


@contextlib.contextmanager
def nginx_subject(stack: Stack) -> Iterator[Subject]:
    """nginx with one worker: a map of keys, a limit per user, a JSON log, kept connections."""
    if shutil.which("nginx") is None:
        raise MissingError("nginx is not here. Run: apt-get install nginx-light")
    port = free_port()
    config = stack.folder / "nginx.conf"
    config.write_text(
        _NGINX.format(folder=stack.folder, port=port, backend=stack.backend_port, key=PEER_KEY)
    )
    command = ["nginx", "-e", str(stack.folder / "nginx.err"), "-c", str(config)]
    with running(on_core(PROXY_CORE, command), stack.folder, "nginx") as process:
        subject = Subject("nginx", port, PEER_KEY, psutil.Process(process.pid))
        wait_for_answer(f"{subject.url}/stats", process, stack.folder / "nginx.err")
        yield subject


@contextlib.contextmanager
def litellm_subject(stack: Stack, program: Path) -> Iterator[Subject]:
    """LiteLLM's proxy with one worker and a master key, without a database or a log of requests:
    less than the others do."""
    port = free_port()
    config = stack.folder / "litellm.yaml"
    config.write_text(_LITELLM.format(backend=stack.backend_port, key=PEER_KEY))
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with running(on_core(PROXY_CORE, command), stack.folder, "litellm", quiet) as process:
        subject = Subject("litellm", port, PEER_KEY, psutil.Process(process.pid))
        log = stack.folder / "litellm.log"
        wait_for_answer(f"{subject.url}/health/liveliness", process, log)
        yield subject


@contextlib.contextmanager
def running(
    command: list[str], folder: Path, name: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a log in the folder, ended afterwards."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until something answers at the address. RuntimeError when the process ends, or takes long."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False, verify=False).status_code < 500:  # noqa: S501
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()[-2000:]}")


_NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err warn;
events {{ worker_connections 8192; }}
http {{
  log_format line escape=json '{{"time":"$time_iso8601","user":"$person","path":"$uri",'
    '"method":"$request_method","status":$status,"seconds":$request_time,'
    '"in":$request_length,"out":$bytes_sent}}';
  access_log {folder}/nginx-access.log line;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  client_body_buffer_size 1m;
  client_max_body_size 2m;
  keepalive_requests 1000000000;
  map_hash_bucket_size 128;
  map $http_authorization $person {{ default ""; "Bearer {key}" "someone"; }}
  limit_req_zone $person zone=people:10m rate=1000000r/s;
  upstream backend {{
    server 127.0.0.1:{backend};
    keepalive 512;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      if ($person = "") {{ return 401; }}
      limit_req zone=people burst=100000 nodelay;
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""

_LITELLM = """\
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "http://127.0.0.1:{backend}/v1", api_key: none}}
litellm_settings: {{num_retries: 0, request_timeout: 600, telemetry: false}}
general_settings: {{master_key: "{key}"}}
"""
