"""``status`` against a real supervisord that runs real (small) services."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamakit.cli import main
from llamakit.services.database_status import Database
from llamakit.services.managers import Managed, _units, count_restarts
from llamakit.services.status import read_status
from llamakit.services.supervise import connect

SERVER = """
import http.server, sys
http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None
address = ("127.0.0.1", int(sys.argv[1]))
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Place:
    """A state directory like the one that the service role writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "services.d").mkdir()
        (folder / "web").mkdir()
        (folder / "server.py").write_text(SERVER)
        state: dict[str, Any] = {
            "manager": "supervisord",
            "unit_prefix": "t-",
            "proxy_url": "http://127.0.0.1:1",
        }
        (folder / "state.json").write_text(json.dumps(state))
        self.state = state
        (folder / "mode.json").write_text('{"mode": "single", "model": "tiny"}')
        self.programs: list[str] = []

    def add(self, name: str, command: str, port: int, start_timeout: int = 0) -> None:
        service = {
            "name": name,
            "kind": "model",
            "model": name,
            "host": "127.0.0.1",
            "port": port,
            "probe": {"type": "http", "path": "/"},
            "start_timeout": start_timeout,
            "log": f"{self.folder}/{name}.log",
            "hash": "1",
        }
        (self.folder / "services.d" / f"{name}.json").write_text(json.dumps(service))
        self.programs.append(
            f"[program:{name}]\ncommand = {command}\nautorestart = true\nstartsecs = 0\n"
            "stopwaitsecs = 1\n"
            f"directory = {self.folder}/web\n"
            f"stdout_logfile = {self.folder}/{name}.log\nredirect_stderr = true\n"
        )

    def tell(self, **more: Any) -> None:
        """Adds to what state.json says."""
        self.state |= more
        (self.folder / "state.json").write_text(json.dumps(self.state))

    def add_server(self, name: str, **more: int) -> int:
        port = free_port()
        self.add(name, f"{sys.executable} {self.folder}/server.py {port}", port, **more)
        return port

    def start(self, *settings: str) -> None:
        config = self.folder / "supervisord.conf"
        config.write_text(
            f"[unix_http_server]\nfile = {self.folder}/s.sock\n"
            f"[supervisord]\nlogfile = {self.folder}/supervisord.log\n"
            f"pidfile = {self.folder}/supervisord.pid\nnodaemon = true\n"
            + "".join(f"{setting}\n" for setting in settings)
            + "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = "
            "supervisor.rpcinterface:make_main_rpcinterface\n" + "\n".join(self.programs)
        )
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(20)

    def states(self) -> dict[str, str]:
        return {service.name: service.state for service in read_status(self.folder).services}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.stop()


def eventually(check: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def status_json(place: Place, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["status", "--state-dir", str(place.folder), "--json"])
    return code, json.loads(capsys.readouterr().out)


def quickest(ask: Callable[[], object]) -> float:
    """Seconds of the best of three: one alone says as much about what else the machine does."""
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        ask()
        seconds.append(time.monotonic() - start)
    return min(seconds)


def test_all_up(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    port = place.add_server("llama-tiny")
    place.start()
    eventually(lambda: place.states() == {"llama-tiny": "up"})
    code, found = status_json(place, capsys)
    assert code == 0
    (service,) = found["services"]
    assert service["port"] == port
    assert service["restarts"] == 0
    assert service["memory_bytes"] > 1_000_000
    assert Path(f"/proc/{service['pid']}").exists()
    assert main(["status", "--state-dir", str(place.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "mode single, model tiny" in lines[0]


def test_a_killed_service_is_restarted_and_counted(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.add_server("llama-tiny")
    place.start()
    eventually(lambda: place.states() == {"llama-tiny": "up"})
    before = status_json(place, capsys)[1]["services"][0]["pid"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: read_status(place.folder).services[0].pid not in (before, None))
    eventually(lambda: place.states() == {"llama-tiny": "up"})
    assert status_json(place, capsys)[1]["services"][0]["restarts"] == 1


def test_restarts_are_counted_across_rotated_logs(place: Place) -> None:
    place.add("llama-restless", "sleep 600", free_port())
    place.start("logfile_maxbytes = 600", "logfile_backups = 3")
    pids: set[int] = set()
    for _ in range(6):
        eventually(lambda: read_status(place.folder).services[0].pid not in (*pids, None))
        pid = read_status(place.folder).services[0].pid
        assert pid is not None
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
    assert (place.folder / "supervisord.log.1").exists()
    eventually(lambda: read_status(place.folder).services[0].restarts == 6)


def test_one_stopped_on_purpose(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.add_server("llama-a")
    place.add_server("llama-b")
    place.start()
    eventually(lambda: set(place.states().values()) == {"up"})
    supervisor = connect(place.folder)
    assert supervisor is not None
    with contextlib.closing(supervisor):
        supervisor.stop("llama-b")
    code, found = status_json(place, capsys)
    assert code == 1
    states = {service["name"]: service["state"] for service in found["services"]}
    assert states == {"llama-a": "up", "llama-b": "stopped"}


def test_a_service_that_runs_and_does_not_answer(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.add("llama-mute", "sleep 600", free_port())
    place.add("llama-loading", "sleep 600", free_port(), start_timeout=600)
    place.start()
    eventually(lambda: place.states() == {"llama-mute": "unhealthy", "llama-loading": "starting"})
    assert main(["status", "--state-dir", str(place.folder)]) == 1
    assert "./console.sh logs llama-mute" in capsys.readouterr().out


def test_a_service_that_crashes_at_once(place: Place) -> None:
    place.add("llama-broken", "false", free_port())
    place.start()
    eventually(lambda: place.states()["llama-broken"] in ("crashing", "failed", "unhealthy"))
    eventually(lambda: read_status(place.folder).services[0].restarts > 0)


def test_nothing_runs(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.add_server("llama-tiny")
    code, found = status_json(place, capsys)
    assert code == 3
    assert found["overall"] == "stopped"
    assert main(["status", "--state-dir", str(place.folder)]) == 3
    assert "./console.sh start" in capsys.readouterr().out


def test_the_supervisor_is_killed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.add_server("llama-tiny")
    place.start()
    eventually(lambda: place.states() == {"llama-tiny": "up"})
    pid = status_json(place, capsys)[1]["services"][0]["pid"]
    assert place.process is not None
    place.process.kill()
    place.process.wait()
    place.process = None
    try:
        code, found = status_json(place, capsys)
        assert code == 1
        assert "no manager knows it" in found["services"][0]["detail"]
    finally:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: status_json(place, capsys)[0] == 3)


def test_a_hung_supervisor_does_not_hang_status(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.add_server("llama-tiny")
    place.start()
    eventually(lambda: place.states() == {"llama-tiny": "up"})
    assert place.process is not None
    place.process.send_signal(signal.SIGSTOP)
    assert quickest(lambda: status_json(place, capsys)) < 2
    code, found = status_json(place, capsys)
    assert code == 1
    assert "does not answer" in found["problem"]
    assert found["services"][0]["state"] == "unknown"


def test_a_hung_service_does_not_hang_status(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("llama-a", "llama-b", "llama-c"):
        place.add_server(name)
    place.start()
    eventually(lambda: set(place.states().values()) == {"up"})
    for service in read_status(place.folder).services:
        assert service.pid is not None
        os.kill(service.pid, signal.SIGSTOP)
    assert quickest(lambda: status_json(place, capsys)) < 2
    code, found = status_json(place, capsys)
    assert code == 1
    assert {service["state"] for service in found["services"]} == {"unhealthy"}
    for service in found["services"]:
        os.kill(service["pid"], signal.SIGKILL)


def test_a_database_that_someone_else_runs(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.add_server("llama-tiny")
    place.start()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_say_no_to_tls, args=(server,), daemon=True).start()
        place.tell(database={"host": "127.0.0.1", "port": port, "unit": None})
        eventually(lambda: place.states() == {"postgres": "up", "llama-tiny": "up"})
        assert status_json(place, capsys)[0] == 0
        server.shutdown(socket.SHUT_RDWR)
    code, found = status_json(place, capsys)
    assert code == 1
    assert found["services"][0]["state"] == "unhealthy"
    assert f"does not answer on 127.0.0.1:{port}" in found["services"][0]["detail"]


def test_a_stopped_deployment_is_stopped_whatever_the_database_does(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.add_server("llama-tiny")
    place.tell(database={"host": "127.0.0.1", "port": free_port(), "unit": None})
    assert status_json(place, capsys)[0] == 3


def test_the_unit_tells_more_of_a_database_on_this_host() -> None:
    database = Database("127.0.0.1", 5432, "postgresql@*-llamakit.service")
    unit = "postgresql@15-llamakit.service"
    up = database.status({unit: Managed("running", 7, 3.5, 1)}, {7: 4096}, answered=True)
    assert (up.state, up.pid, up.memory_bytes, up.uptime_seconds, up.restarts) == (
        ("up", 7, 4096, 3, 1)
    )
    mute = database.status({unit: Managed("running", 7)}, {}, answered=False)
    assert (mute.state, mute.log) == (
        "unhealthy",
        "journalctl -u 'postgresql@*-llamakit.service' -n 50",
    )
    for view in ({}, {unit: Managed("stopped")}):
        stopped = database.status(view, {}, answered=False)
        assert stopped.state == "stopped"
        assert "systemctl start" in stopped.detail


def _say_no_to_tls(server: socket.socket) -> None:
    """What PostgreSQL answers to the question whether it speaks TLS."""
    with contextlib.suppress(OSError):
        while True:
            connection = server.accept()[0]
            with connection:
                connection.recv(8)
                connection.sendall(b"N")


def test_nothing_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state-dir", str(tmp_path)]) == 3
    assert "./console.sh start" in capsys.readouterr().err


def test_restarts_are_counted_from_the_supervisors_log() -> None:
    log = [
        "2026-01-01 00:00:00,000 INFO spawned: 'a' with pid 1",
        "2026-01-01 00:00:01,000 INFO success: a entered RUNNING state",
        "2026-01-01 00:00:02,000 WARN exited: a (terminated by SIGKILL; not expected)",
        "2026-01-01 00:00:03,000 INFO spawned: 'a' with pid 2",
        "2026-01-01 00:00:04,000 INFO spawned: 'b' with pid 3",
        "2026-01-01 00:00:05,000 INFO stopped: b (terminated by SIGTERM)",
        "2026-01-01 00:00:06,000 INFO spawned: 'b' with pid 4",
        "2026-01-01 00:00:07,000 INFO supervisord started with pid 9",
        "2026-01-01 00:00:08,000 INFO spawned: 'a' with pid 5",
        "2026-01-01 00:00:08,000 INFO spawned: 'b' with pid 6",
        "2026-01-01 00:00:08,000 INFO spawned: 'unknown' with pid 7",
    ]
    assert count_restarts(log, ["a", "b", "c"]) == {"a": 2, "b": 1, "c": 0}


def test_units_of_systemd_are_read() -> None:
    output = (
        "MainPID=12\nNRestarts=3\nId=t-proxy.service\nActiveState=active\nSubState=running\n"
        "ActiveEnterTimestampMonotonic=1\n\n"
        "MainPID=0\nNRestarts=9\nId=t-llama-a.service\nActiveState=activating\n"
        "SubState=auto-restart\nActiveEnterTimestampMonotonic=0\n\n"
        "MainPID=5\nNRestarts=0\nId=postgresql@15-x.service\nActiveState=active\n"
        "SubState=running\nActiveEnterTimestampMonotonic=1\n\n"
        "MainPID=0\nNRestarts=0\nId=t-gone.service\nActiveState=inactive\nSubState=dead\n"
        "ActiveEnterTimestampMonotonic=0\n"
    )
    units = dict(_units(output, "t-"))
    assert {name: unit.state for name, unit in units.items()} == {
        "proxy": "running",
        "llama-a": "crashing",
        "postgresql@15-x.service": "running",
        "gone": "stopped",
    }
    assert units["proxy"].restarts == 3
    assert (units["proxy"].uptime or 0) > 0
