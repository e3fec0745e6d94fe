"""The command ``llamakit preflight``: what it tells, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llamakit.cli import main


def test_the_command_tells_config_and_machine_at_once(
    listener: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models.yaml"
    source = {"path": "a.gguf"}
    models.write_text(yaml.safe_dump({"models": [{"id": "a", "port": 9000, "source": source}]}))
    arguments = ["preflight", "--models", str(models), "--routes", str(tmp_path / "none")]
    arguments += ["--models-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    proxy = f"--service=proxy=127.0.0.1:{listener}"
    assert main([*arguments, proxy, "--reserved-ports", "9000", "--place", "local"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "port 9000, which llamakit uses for another service" in told.err
    assert f"port {listener} on 127.0.0.1, for proxy" in told.err
    before = sorted(tmp_path.rglob("*"))
    assert main([*arguments, "--allow-smoke", "--smoke-dir", str(tmp_path / "smoke")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"plan", "host", "warnings"}
    assert answer["plan"]["selected"] == "llamakit-smoke"
    assert sorted(tmp_path.rglob("*")) == before, "nothing was changed"
    assert {"kind", "accelerator", "cmake_flags", "devices", "memory_bytes"} < set(answer["host"])


def test_the_key_of_a_backend_elsewhere_has_to_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.yaml").write_text("models: [{id: a, source: {path: a.gguf}}]\n")
    backend = {"url": "http://192.0.2.1:8010", "api_key_secret": "far_key"}
    ours = {"url": "http://192.0.2.2:8010", "api_key_secret": "llama_api_key"}
    open_to_all = {"url": "http://192.0.2.3:8010"}
    routes = {"models": [{"id": "far", "backends": [backend, ours, open_to_all]}]}
    (tmp_path / "routes.yaml").write_text(yaml.safe_dump(routes))
    arguments = ["preflight", "--models", str(tmp_path / "models.yaml"), "--allow-smoke"]
    arguments += ["--routes", str(tmp_path / "routes.yaml"), "--models-dir", str(tmp_path)]
    arguments += ["--state-dir", str(tmp_path), "--secrets-dir", str(tmp_path / "secrets")]
    arguments += ["--smoke-dir", str(tmp_path / "smoke")]
    key = tmp_path / "secrets" / "far_key"
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "1 problem:" in told
    assert "config/proxy_routes.yaml: far, api_key_secret 'far_key'" in told
    assert f"no key in {key}" in told
    key.parent.mkdir()
    key.touch()
    assert main(arguments) == 2, "an empty file is no key"
    key.write_text("a key\n")
    assert main(arguments) == 0
