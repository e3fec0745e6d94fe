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
from support.backend import write_key
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


def refused(config: Path, **environment: str) -> tuple[int, str]:
    process = launch(config, **environment)
    status = process.wait(60)
    return status, config.with_suffix(".log").read_text()


def test_the_credentials_of_systemd_win(folder: Path, tmp_path: Path) -> None:
    config = write_config(folder, script_model(folder))
    credentials = str(write_key(tmp_path / "credentials", "another-key"))
    server = start(config, CREDENTIALS_DIRECTORY=credentials)
    try:
        url = f"{server.url}/v1/models"
        assert httpx.get(url, headers=HEADERS).status_code == 401
        headers = {"Authorization": "Bearer another-key"}
        assert httpx.get(url, headers=headers).status_code == 200
        environment = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert b"another-key" not in environment
    finally:
        stop(server)


def test_a_server_without_a_key_is_refused(folder: Path, tmp_path: Path) -> None:
    config = write_config(folder, script_model(folder))
    assert refused(config, LLAMAKIT_SECRETS_DIR="")[0] == 2
    status, log = refused(config, LLAMAKIT_SECRETS_DIR=str(tmp_path))
    assert status == 2
    assert f"{tmp_path}/llama_api_key" in log
    status, log = refused(config, CREDENTIALS_DIRECTORY=str(write_key(tmp_path / "empty", " ")))
    assert status == 2
    assert "is empty" in log


def test_a_key_in_the_config_is_refused(folder: Path) -> None:
    config = write_config(folder, script_model(folder))
    config.write_text(json.dumps({**json.loads(config.read_text()), "api_key": KEY}))
    status, log = refused(config)
    assert status == 2
    assert "remove api_key" in log
    assert KEY not in log


def test_it_tells_where_the_layers_are(folder: Path) -> None:
    place = folder / "layers"
    (place / "run").mkdir(parents=True)
    server = start(write_config(place, script_model(folder), n_gpu_layers=-1))
    try:
        (file,) = (place / "run").iterdir()
        proof = json.loads(file.read_text())
        assert file.name == f"gpu-{server.log.stem}.json"
        assert proof["pid"] == server.process.pid
        assert proof["wanted"] == -1
        assert "layers on the GPU" in server.log.read_text()
        if not proof["supported"]:
            assert (proof["offloaded"], proof["devices"]) == (0, {})
    finally:
        stop(server)


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
    assert "llama.cpp: " in log, "what it said itself"
    assert "Traceback" not in log


def test_the_engines_settings_are_those_of_the_server() -> None:
    known = set(settings.ModelSettings.model_fields) | set(settings.ConfigFileSettings.model_fields)
    engine = engines()["llama_cpp_python"]
    # The port is a key of the entry itself, because every engine has one.
    assert set(engine.fields) | set(engine.refused) == known - {"port"}
    assert not set(engine.fields) & set(engine.refused)
