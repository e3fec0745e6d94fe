"""The units that the service role writes are right, whole and shut in."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support.play import CHECKOUT, run_tasks

ROLE = CHECKOUT / "roles" / "service"
MOST_EXPOSED = 20  # in tenths, as systemd-analyze has it
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here"
)

NASTY = '"$HOME" \\ 100%'
COMMON = {"command": ["/bin/true", "a b", NASTY], "hash": "abc", "description": "One of them"}
MODEL = {
    **COMMON, "name": "llama-m.1", "kind": "model", "loopback_only": True, "devices": None,
    "credentials": {"llama_api_key": "/etc/llamakit/secrets/llama_api_key"},
    "environment": {"ODD": NASTY}, "memlock": True, "memory_max": "8G", "port": "8010",
}  # fmt: skip
GPU = {**MODEL, "name": "llama-gpu", "devices": ["/dev/nvidia0", "/dev/nvidiactl"]}
ELSEWHERE = {**MODEL, "name": "llama-home", "readable": ["/root/a b.gguf"]}
PROXY = {
    **COMMON, "name": "proxy", "kind": "proxy", "socket": {"host": "::", "port": 8001},
    "reload": ["/bin/kill", "-HUP", "$MAINPID"], "after": ["postgresql.service", "llama-m.1"],
    "credentials": {"tls_key": "/etc/llamakit/secrets/tls_key"}, "stop_timeout": 330,
    "release": "r1",
}  # fmt: skip
BACKUP = {
    **COMMON, "name": "backup", "kind": "backup", "schedule": "*-*-* 03:00:00", "user": "postgres",
    "group": "postgres", "writable": ["/var/lib/llamakit/backups"], "loopback_only": True,
}  # fmt: skip
ON_CPU = ["llama-m.1", "llama-home", "proxy", "backup"]


def write_units(folder: Path, *, manager: str, logs_dir: str) -> Path:
    """Runs the role's own task that writes everything; the folder with the units."""
    (folder / "templates").symlink_to(ROLE / "templates")
    for part in ("units", "services.d"):
        (folder / part).mkdir()
    tasks = yaml.safe_load((ROLE / "tasks" / "systemd.yml").read_text())
    play = run_tasks(
        folder,
        [{**tasks[0], "register": "result"}],
        vars_files=[ROLE / "defaults" / "main.yml", ROLE / "vars" / "main.yml"],
        service_definitions=[MODEL, GPU, ELSEWHERE, PROXY, BACKUP],
        service_manager=manager,
        service_state_dir=str(folder),
        service_logs_dir=logs_dir,
        __service_unit_dir=str(folder / "units"),
        __service_unit_owner=None,
    )
    assert play.code == 0, play.output
    return folder / "units"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units of a host."""
    return write_units(tmp_path_factory.mktemp("host"), manager="systemd-system", logs_dir="")


@pytest.fixture(scope="module")
def with_log_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The system units of a place that keeps its logs in files."""
    folder = tmp_path_factory.mktemp("files")
    return write_units(folder, manager="systemd-system", logs_dir=str(folder))


@pytest.fixture(scope="module")
def of_a_user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units of a user's own manager."""
    folder = tmp_path_factory.mktemp("user")
    return write_units(folder, manager="systemd-user", logs_dir=str(folder))


def section(file: Path, name: str) -> dict[str, list[str]]:
    """The values of each key, in order."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in file.read_text().splitlines():
        if line.startswith("["):
            inside = line == f"[{name}]"
        elif inside and "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def analyze(*arguments: str, units: Path) -> subprocess.CompletedProcess[str]:
    # The folder of its own comes first, and the system's units are found, too.
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@needs_systemd
@pytest.mark.parametrize("place", ["host", "with_log_files", "of_a_user"])
def test_systemd_has_nothing_to_say_about_them(place: str, request: pytest.FixtureRequest) -> None:
    units: Path = request.getfixturevalue(place)
    files = [str(path) for path in sorted(units.iterdir())]
    verdict = analyze("verify", "--man=no", *files, units=units)
    # It ends well for a setting it does not know, too; it only says so.
    assert verdict.stdout == ""
    assert verdict.returncode == 0


@needs_systemd
@pytest.mark.parametrize("name", ON_CPU)
def test_a_unit_of_a_host_is_shut_in(host: Path, name: str) -> None:
    unit = str(host / f"llamakit-{name}.service")
    verdict = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit, units=host
    )
    assert verdict.returncode == 0, verdict.stdout


@needs_systemd
@pytest.mark.parametrize("name", [*ON_CPU, "rotate"])
def test_a_unit_with_a_log_file_is_shut_in(with_log_files: Path, name: str) -> None:
    unit = str(with_log_files / f"llamakit-{name}.service")
    verdict = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit,
        units=with_log_files,
    )  # fmt: skip
    assert verdict.returncode == 0, verdict.stdout


def test_a_gpu_is_let_in_by_name_and_nothing_else(host: Path) -> None:
    gpu = section(host / "llamakit-llama-gpu.service", "Service")
    assert gpu["DevicePolicy"] == ["closed"]
    assert gpu["DeviceAllow"] == ["/dev/nvidia0 rw", "/dev/nvidiactl rw"]
    assert "PrivateDevices" not in gpu
    cpu = section(host / "llamakit-llama-m.1.service", "Service")
    assert cpu["PrivateDevices"] == ["true"]
    assert "DeviceAllow" not in cpu


def test_memory_becomes_executable_for_a_gpu_alone(host: Path) -> None:
    denied = {
        name: section(host / f"llamakit-{name}.service", "Service")["MemoryDenyWriteExecute"]
        for name in ("llama-m.1", "llama-gpu", "proxy")
    }
    assert denied == {"llama-m.1": ["true"], "llama-gpu": ["false"], "proxy": ["true"]}


def test_words_reach_the_program_as_they_are(host: Path) -> None:
    service = section(host / "llamakit-llama-m.1.service", "Service")
    # Quoted for systemd: it fills in %x and, in what follows the program, $x.
    assert service["ExecStart"] == [r'"/bin/true" "a b" "\"$$HOME\" \\ 100%%"']
    assert r'"ODD=\"$HOME\" \\ 100%%"' in service["Environment"]
    proxy = section(host / "llamakit-proxy.service", "Service")
    assert proxy["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_secrets_are_handed_over_as_credentials(host: Path, of_a_user: Path) -> None:
    service = section(host / "llamakit-proxy.service", "Service")
    assert service["LoadCredential"] == ["tls_key:/etc/llamakit/secrets/tls_key"]
    assert "LoadCredential" not in section(of_a_user / "llamakit-proxy.service", "Service")


def test_each_writes_only_where_it_must(host: Path) -> None:
    def writable(name: str) -> list[str]:
        return section(host / f"llamakit-{name}.service", "Service")["ReadWritePaths"]

    assert writable("llama-m.1") == [f'"{host.parent}/run"']
    assert writable("backup") == ['"/var/lib/llamakit/backups"']


def test_a_model_in_a_home_is_seen_without_the_home(host: Path) -> None:
    service = section(host / "llamakit-llama-home.service", "Service")
    assert service["ProtectHome"] == ["tmpfs"]
    assert service["BindReadOnlyPaths"] == ['"/root/a b.gguf"']


def test_a_socket_listens_for_its_service(host: Path) -> None:
    listener = section(host / "llamakit-proxy.socket", "Socket")
    assert listener["ListenStream"] == ["[::]:8001"]
    unit = section(host / "llamakit-proxy.service", "Unit")
    assert unit["Requires"] == ["llamakit-proxy.socket"]
    assert {"postgresql.service", "llamakit-llama-m.1.service"} <= set(unit["After"])
    assert not (host / "llamakit-llama-m.1.socket").exists()


def test_what_has_a_time_is_started_by_its_timer_alone(host: Path) -> None:
    service = configparser.RawConfigParser(strict=False)
    service.read(host / "llamakit-backup.service")
    assert service["Service"]["type"] == "oneshot"
    assert not service.has_section("Install")
    assert section(host / "llamakit-backup.timer", "Timer")["OnCalendar"] == ["*-*-* 03:00:00"]


def test_everything_hangs_on_the_target(host: Path) -> None:
    for unit in host.iterdir():
        if unit.name not in {"llamakit.target", "llamakit-backup.service"}:
            assert section(unit, "Unit")["PartOf"] == ["llamakit.target"], unit
            assert section(unit, "Install")["WantedBy"] == ["llamakit.target"], unit
    assert section(host / "llamakit.target", "Install")["WantedBy"] == ["multi-user.target"]


def test_logs_in_files_are_rotated_and_those_in_the_journal_are_not_ours(
    host: Path, with_log_files: Path
) -> None:
    assert not list(host.glob("*rotate*"))
    assert (with_log_files / "llamakit-rotate.timer").exists()
    assert os.access(with_log_files.parent / "rotate-logs.sh", os.X_OK)


def test_a_definition_for_status_has_what_is_there(host: Path) -> None:
    definitions = host.parent / "services.d"
    proxy = json.loads((definitions / "proxy.json").read_text())
    assert (proxy["release"], proxy["log"]) == ("r1", "")
    assert json.loads((definitions / "llama-m.1.json").read_text())["port"] == 8010
    assert json.loads((definitions / "backup.json").read_text())["probe"] is None
