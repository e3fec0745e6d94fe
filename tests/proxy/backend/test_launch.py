"""The launcher, with the real server and real model files."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from llama_cpp.server import settings

from llamakit.engines import engines
from support.model_server import HEADERS, KEY, Server, body, launch, start, stop, write_config
from support.models import SAY, script_model, sharded_model


def test_it_serves_with_its_key_only_and_ignores_the_environment(script: Server) -> None:
    answer = script.chat()
    assert answer["choices"][0]["message"]["content"] == SAY
    assert httpx.post(f"{script.url}/v1/chat/completions", json=body("hi")).status_code == 401
    assert httpx.get(f"{script.url}/v1/models", headers=HEADERS).status_code == 200


def test_a_sharded_model_is_loaded_by_its_first_file(folder: Path) -> None:
    server = start(write_config(folder, sharded_model(folder / "shards")))
    try:
        assert server.chat()["choices"][0]["message"]["content"] == SAY
    finally:
        stop(server)


def refused(config: Path) -> tuple[int, str]:
    process = launch(config)
    status = process.wait(60)
    return status, config.with_suffix(".log").read_text()


def test_a_config_that_others_can_read_is_refused(folder: Path) -> None:
    config = write_config(folder, script_model(folder))
    config.chmod(0o640)
    status, log = refused(config)
    assert status == 2
    assert f"chmod 600 {config}" in log
    assert KEY not in log


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interrupt_requests": True}, "interrupt_requests"),
        ({"models": []}, "lacks models"),
        ({"port": 0}, "lacks port"),
        ({"nonsense": 1}, "refuses its settings"),
    ],
)
def test_a_config_that_cannot_work_is_told(folder: Path, change: dict[str, Any], said: str) -> None:
    config = write_config(folder, script_model(folder))
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    status, log = refused(config)
    assert status == 2
    assert said in log
    assert KEY not in log
    assert "Traceback" not in log


def test_a_busy_port_is_told_before_the_model_is_loaded(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, log = refused(write_config(folder, script_model(folder), port=port))
    assert status == 3
    assert f"127.0.0.1:{port}" in log


def test_a_damaged_model_is_told(folder: Path) -> None:
    damaged = folder / "damaged.gguf"
    damaged.write_bytes(script_model(folder).read_bytes()[:-100])
    status, log = refused(write_config(folder, damaged))
    assert status == 4
    assert str(damaged) in log
    assert "Traceback" not in log


def test_the_engines_settings_are_those_of_the_server() -> None:
    known = set(settings.ModelSettings.model_fields) | set(settings.ConfigFileSettings.model_fields)
    engine = engines()["llama_cpp_python"]
    # The port is a key of the entry itself, because every engine has one.
    assert set(engine.fields) | set(engine.refused) == known - {"port"}
    assert not set(engine.fields) & set(engine.refused)
