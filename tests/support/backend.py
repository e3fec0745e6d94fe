"""A real llama_cpp.server for tests, started by the kit's own launcher."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .leftovers import run_folder

SERVER = Path(__file__).parents[2] / "files" / "server" / "src"
KEY = "canary-backend-key-4f1d"
_START_SECONDS = 60


@dataclass(slots=True)
class Backend:
    """A running model server."""

    config: Path
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until the model is loaded, which is when the port opens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llamakit_server.launch", str(self.config)],
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(SERVER),
                    "LLAMAKIT_SECRETS_DIR": str(self.config.parent / "secrets"),
                },
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise RuntimeError(f"the model server did not start:\n{self.log.read_text()[-2000:]}")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End it; SIGKILL is a crash."""
        if self.process is not None:
            self.process.send_signal(signal_number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


@contextlib.contextmanager
def running_backend(model: Path, **settings: Any) -> Iterator[Backend]:
    """A model server for the file ``model``; ``settings`` are llama_cpp.server's own.

    It answers to every name, unless ``model_alias`` gives it one."""
    with run_folder() as folder:
        port = free_port()
        model_settings = {
            "model": str(model),
            "n_ctx": 2048,
            "n_gpu_layers": 0,
            "n_threads": 1,
            "n_threads_batch": 1,
            "logits_all": False,
            "use_mlock": False,
            "verbose": False,
            **settings,
        }
        config = folder / "config.json"
        config.write_text(
            json.dumps(
                {
                    "host": "127.0.0.1",
                    "port": port,
                    "interrupt_requests": False,
                    "models": [model_settings],
                }
            )
        )
        write_key(folder / "secrets", KEY)
        backend = Backend(config, folder / "backend.log", port)
        backend.start()
        try:
            yield backend
        finally:
            backend.stop()


def write_key(folder: Path, key: str) -> Path:
    """A folder of secrets with the model server's key."""
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "llama_api_key"
    file.write_text(key)
    file.chmod(0o600)
    return folder


def free_port() -> int:
    """A loopback port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
