"""Model servers for tests of the launcher and its patches: the plan's settings, asked directly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from llamakit.engines import Request, engines
from llamakit.models.gguf_header import read_header
from support.backend import SERVER, free_port, write_key

KEY = "backend-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Server:
    """A running model server."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.client = httpx.Client(base_url=url, headers=HEADERS, timeout=60)

    def chat(self, text: str = "hi", **more: Any) -> dict[str, Any]:
        response = self.client.post("/v1/chat/completions", json=body(text, **more))
        found: dict[str, Any] = response.json()
        return found

    def stream(self, text: str = "hi", **more: Any) -> list[dict[str, Any]]:
        """The events of a streamed chat, without the final [DONE], which must be there."""
        request = body(text, stream=True, **more)
        with self.client.stream("POST", "/v1/chat/completions", json=request) as response:
            lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def alive(self) -> bool:
        return self.process.poll() is None and "choices" in self.chat(max_tokens=1)


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 400, **more}


def write_config(folder: Path, model: Path, *, port: int | None = None, **more: Any) -> Path:
    """What the role writes: the plan's settings, and the key in a folder beside them."""
    engine = engines()["llama_cpp_python"]
    port = port or free_port()
    settings = engine.model_settings(
        Request(str(model), model.stem, "embed" in model.stem, 0, more, _header(model))
    )
    config = {**engine.server_settings("127.0.0.1", port), "models": [settings]}
    file = folder / f"{model.stem}-{port}.json"
    file.write_text(json.dumps(config))
    write_key(folder / "secrets", KEY)
    return file


def _header(model: Path) -> Any:
    try:
        return read_header(model)
    except (OSError, ValueError):
        return None


def launch(config: Path, **environment: str) -> subprocess.Popen[bytes]:
    secrets = {"LLAMAKIT_SECRETS_DIR": str(config.parent / "secrets")}
    with config.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "llamakit_server.launch", str(config)],
            cwd=config.parent,
            env={**os.environ, "PYTHONPATH": str(SERVER), **secrets, **environment},
            stdout=log,
            stderr=log,
        )


def start(config: Path, **environment: str) -> Server:
    process = launch(config, **environment)
    url = f"http://127.0.0.1:{json.loads(config.read_text())['port']}"
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/openapi.json", timeout=5)
            return Server(process, url, config.with_suffix(".log"))
        except httpx.TransportError:
            assert process.poll() is None, config.with_suffix(".log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def stop(server: Server) -> None:
    server.client.close()
    server.process.kill()
    server.process.wait()
