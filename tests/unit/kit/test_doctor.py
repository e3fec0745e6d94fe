"""``doctor`` on this machine, with things made wrong on purpose."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamakit.cli import main
from llamakit.doctor import build, config, machine
from llamakit.doctor.finding import Finding, Where
from support.hub import running_hub
from support.models import script_model


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Where:
    monkeypatch.delenv("LLAMAKIT_WHEELHOUSE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("LLAMA_PROXY_PORT", "POSTGRES_AUTH_PORT"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            monkeypatch.setenv(name, str(probe.getsockname()[1]))
    (tmp_path / "models").mkdir()
    (tmp_path / "models.yaml").write_text(
        "models:\n  - {id: a, port: 45123, source: {path: a.gguf}}\n"
    )
    return Where(
        tmp_path / "models.yaml",
        tmp_path / "routes.yaml",
        tmp_path / "models",
        tmp_path / "run",
        tmp_path / "secrets",
        tmp_path / "local.env",
    )


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


def test_all_checks_run_and_each_problem_has_a_remedy(
    where: Where, capsys: pytest.CaptureFixture[str]
) -> None:
    script_model(where.models_dir, "a.gguf")
    arguments = ["--models", str(where.models), "--models-dir", str(where.models_dir)]
    arguments += ["--state-dir", str(where.state_dir), "--routes", str(where.routes)]
    main(["doctor", *arguments])
    lines = capsys.readouterr().out.splitlines()
    subjects = {line[6:16].strip() for line in lines if line[:4].strip() in ("ok", "warn", "fail")}
    assert {"config", "model", "memory", "disk", "ports", "python", "engine"} <= subjects
    assert {"processor", "gpu", "services", "limits", "hub", "clock"} <= subjects
    for line, following in itertools.pairwise(lines):
        if line.startswith(("warn", "fail")):
            assert following.strip().startswith("do:")


def test_a_broken_configuration_fails(where: Where) -> None:
    where.models.write_text("models:\n  - {id: a}\n")
    (finding,) = config.configuration(where)
    assert finding.level == "fail"
    assert "line 2" in finding.found


def test_a_setting_that_does_not_exist_fails(where: Where) -> None:
    script_model(where.models_dir, "a.gguf")
    where.settings.write_text("LLAMA_PROXY_PROT=8005\n")
    (finding,) = config.configuration(where)
    assert finding.level == "fail"
    assert "line 1: an unknown name 'LLAMA_PROXY_PROT'" in finding.found
    assert "LLAMA_PROXY_PORT" in finding.remedy


def test_a_missing_model_warns_and_a_damaged_one_fails(where: Where) -> None:
    assert levels(list(config.configuration(where)))["model"] == "warn"
    (where.models_dir / "a.gguf").write_bytes(b"x")
    assert levels(list(config.configuration(where)))["model"] == "fail"


def test_a_busy_port_fails_and_names_the_program(where: Where) -> None:
    script_model(where.models_dir, "a.gguf")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 45123))
        taken.listen()
        found = [f for f in config.configuration(where) if f.subject == "ports"]
    assert found[0].level == "fail"
    assert f"{Path('/proc/self/comm').read_text().strip()} (pid " in found[0].found


def test_an_address_that_is_not_ours_fails(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_PROXY_HOST", "192.0.2.1")
    monkeypatch.setenv("LLAMAKIT_SERVICE_MANAGER", "supervisord")
    found = [f for f in config.configuration(where) if f.subject == "ports"]
    assert [finding.level for finding in found] == ["fail"]
    assert "the address 192.0.2.1, for proxy" in found[0].found
    assert "LLAMA_PROXY_HOST" in found[0].remedy


def test_memory_and_disk_that_do_not_suffice_fail(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.memory("a", 1 << 60).level == "fail"
    assert config.memory("a", 1).level == "ok"
    disk = SimpleNamespace(free=10_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: disk)
    assert levels(list(config.disk(where, [])))["disk"] == "fail"


def test_a_backends_key_that_is_missing_fails(where: Where) -> None:
    where.routes.write_text(
        "models: [{id: far, backends: [{url: 'http://192.0.2.1:1', api_key_secret: far_key}]}]\n"
    )
    finding = next(f for f in config.configuration(where) if f.subject == "secrets")
    assert finding.level == "fail"
    assert "api_key_secret 'far_key'" in finding.found


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_secrets_that_others_can_read_fail(where: Where, mode: int) -> None:
    assert list(config.secrets(where)) == []
    secret = where.secrets_dir / "llama_api_key"
    secret.parent.mkdir(parents=True)
    secret.write_text("x")
    secret.chmod(mode)
    (finding,) = config.secrets(where)
    assert finding.level == "fail"
    assert f"chmod 600 {secret}" in finding.remedy
    secret.chmod(0o600)
    assert levels(list(config.secrets(where)))["secrets"] == "ok"


def test_without_wheel_and_compiler_the_install_command_is_told(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    (finding,) = build.wheel_or_compiler(where)
    assert finding.level == "fail"
    assert "as root:" in finding.remedy
    wheels = where.state_dir / "wheelhouse"
    wheels.mkdir(parents=True)
    (wheels / "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl").touch()
    assert levels(list(build.wheel_or_compiler(where)))["engine"] == "ok"


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ({"ID": "debian"}, "apt-get"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "apt-get"),
        ({"ID": "fedora"}, "dnf"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf"),
        ({"ID": "alpine"}, "apk"),
        ({"ID": "other"}, "install a C++ compiler"),
    ],
)
def test_the_install_command_fits_the_distribution(
    monkeypatch: pytest.MonkeyPatch, release: dict[str, str], command: str
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    assert command in build.compiler_command()


def test_a_gpu_without_a_build_for_it_warns(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    libraries = where.state_dir / "llama_server" / "0" / "lib" / "llama_cpp" / "lib"
    libraries.mkdir(parents=True)
    (libraries / "libggml-cpu.so").touch()
    assert levels(list(build.graphics(where)))["gpu"] == "warn"
    (libraries / "libggml-cuda.so").touch()
    assert levels(list(build.graphics(where)))["gpu"] == "ok"


def test_a_hub_that_answers_tells_the_time(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(list(machine.hub_and_clock(where))) == {"hub": "warn", "clock": "ok"}
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = list(machine.hub_and_clock(where))
        assert levels(found)["hub"] == "ok"
        # A proxy resolves names that this machine can't.
        monkeypatch.setenv("http_proxy", hub.url)
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        assert levels(list(machine.hub_and_clock(where)))["hub"] == "ok"
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    (hub_found, _) = machine.hub_and_clock(where)
    assert hub_found.level == "warn"
    assert "SSL_CERT_FILE" in hub_found.remedy
