"""apply_units when something goes wrong: a run that dies, a service that does not answer, two runs.

What it does with a real systemd is for molecule to show; here systemctl only keeps book and fails.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.systemctl import put_systemctl
from unit.deploy.run_module import Outcome, run_module


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"release": self.server.release}).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any, **__: Any) -> None:
        """Nothing is logged."""


class Host:
    """A folder with units, a bookkeeper for systemctl and a service that answers."""

    def __init__(self, folder: Path, server: HTTPServer) -> None:
        self.folder = folder
        self.server = server
        for name in ("units", "services.d", "bin"):
            (folder / name).mkdir()
        put_systemctl(folder / "bin")
        (folder / "bin" / "journalctl").symlink_to("/bin/true")
        (folder / "units" / "t.target").touch()

    def service(self, name: str = "web", **more: Any) -> dict[str, Any]:
        """A definition, with the unit and the file that the role would write for it."""
        definition = {
            "name": name,
            "kind": "proxy",
            "hash": "a",
            "host": "127.0.0.1",
            "port": self.server.server_port,
            "probe": {"type": "http", "path": "/"},
            "start_timeout": 2,
            **more,
        }
        (self.folder / "units" / f"t-{name}.service").write_text(f"hash {definition['hash']}\n")
        (self.folder / "services.d" / f"{name}.json").write_text(json.dumps(definition))
        return definition

    def apply(self, *services: dict[str, Any], check_mode: bool = False, **more: Any) -> Outcome:
        """Runs the module with what the role gives it."""
        (self.folder / "calls").unlink(missing_ok=True)
        options = {
            "scope": "system",
            "prefix": "t-",
            "unit_dir": str(self.folder / "units"),
            "state_dir": str(self.folder),
            "owner": "web",
            "services": list(services),
            **more,
        }
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_SYSTEMD": str(self.folder),
        }
        return run_module("apply_units", options, environment, check_mode=check_mode)

    @property
    def calls(self) -> list[str]:
        """What systemctl was asked to do in the last run."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def stamps(self) -> list[str]:
        folder = self.folder / "started.d"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def put_in(self, fault: str, verb: str) -> None:
        """``kill`` or ``fail`` the next call of that verb."""
        (self.folder / fault).write_text(verb)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    server.release = "r1"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Host(tmp_path, server)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_second_run_does_nothing(host: Host) -> None:
    first = host.apply(host.service())
    assert first.code == 0, first.result
    assert first.result["started"] == ["t-web.service"]
    assert host.stamps == ["t-web.service@a"]
    second = host.apply(host.service())
    assert second.result["changed"] is False
    assert host.calls == []


def test_check_mode_says_what_would_be_done_and_does_nothing(host: Host) -> None:
    assert host.apply(host.service(), check_mode=True).result["started"] == ["t-web.service"]
    assert host.calls == []
    assert host.apply(host.service()).code == 0
    changed = host.apply(host.service(hash="b"), check_mode=True)
    assert changed.result["restarted"] == ["t-web.service"]
    assert host.calls == []
    assert host.stamps == ["t-web.service@a"]


@pytest.mark.parametrize("verb", ["reenable", "restart", "start"])
def test_a_run_that_is_killed_is_made_good_by_the_next(host: Host, verb: str) -> None:
    host.put_in("kill", verb)
    assert host.apply(host.service()).code != 0
    assert host.stamps == []
    assert host.apply(host.service()).code == 0
    assert host.stamps == ["t-web.service@a"]
    assert host.apply(host.service()).result["changed"] is False


def test_going_back_after_a_killed_change_restarts_what_may_run_with_the_change(host: Host) -> None:
    assert host.apply(host.service(hash="a")).code == 0
    host.put_in("kill", "restart")
    assert host.apply(host.service(hash="b")).code != 0
    back = host.apply(host.service(hash="a"))
    assert back.result["restarted"] == ["t-web.service"]


@pytest.mark.parametrize("verb", ["stop", "disable", "daemon-reload"])
def test_a_removal_that_is_killed_is_ended_by_the_next(host: Host, verb: str) -> None:
    assert host.apply(host.service(), host.service("web-old")).code == 0
    host.put_in("kill", verb)
    assert host.apply(host.service()).code != 0
    assert host.apply(host.service()).code == 0
    assert host.stamps == ["t-web.service@a"]
    assert not (host.folder / "units" / "t-web-old.service").exists()
    assert not (host.folder / "services.d" / "web-old.json").exists()
    assert host.apply(host.service()).result["changed"] is False


def test_a_unit_whose_file_changed_restarts_though_its_hash_is_the_same(host: Host) -> None:
    assert host.apply(host.service()).code == 0
    definition = host.service()
    (host.folder / "units" / "t-web.service").write_text("shut in further\n")
    assert host.apply(definition).result["restarted"] == ["t-web.service"]


def test_a_service_that_does_not_answer_is_told_of_and_started_anew_next_time(host: Host) -> None:
    free = HTTPServer(("127.0.0.1", 0), _Answer)
    free.server_close()
    silent = host.service(port=free.server_port, start_timeout=1)
    failed = host.apply(host.service("web-good"), silent)
    assert failed.code != 0
    assert "t-web.service is active (running) and does not answer" in failed.result["msg"]
    assert f"Expected an answer on 127.0.0.1:{free.server_port} within 1 s" in failed.result["msg"]
    assert "journalctl --unit=t-web.service" in failed.result["msg"]
    assert host.stamps == ["t-web-good.service@a"]
    good = host.apply(host.service("web-good"), host.service())
    assert good.result["restarted"] == ["t-web.service"]


def test_what_systemctl_says_is_told(host: Host) -> None:
    host.put_in("fail", "restart")
    failed = host.apply(host.service())
    assert failed.code != 0
    assert "restart was refused" in failed.result["msg"]
    assert "t-web.service is inactive (dead)" in failed.result["msg"]


def test_another_release_is_reloaded_and_a_bad_one_leaves_what_runs_alone(host: Host) -> None:
    assert host.apply(host.service(release="r1")).code == 0
    assert host.apply(host.service(release="r1")).result["changed"] is False
    bad = host.apply(host.service(release="r2", start_timeout=1))
    assert bad.code != 0
    assert "it runs release r1" in bad.result["msg"]
    assert "from release r2" in bad.result["msg"]
    assert host.calls == ["reload t-web.service"]
    # The caller points back; nothing has to be done for what never stopped.
    back = host.apply(host.service(release="r1"))
    assert back.result["changed"] is False
    assert host.calls == []


def test_two_runs_do_one_after_the_other(host: Host) -> None:
    folder = os.open(host.folder, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    ended: list[Outcome] = []
    other = threading.Thread(target=lambda: ended.append(host.apply(host.service())))
    other.start()
    # Alone it would have ended long since.
    other.join(timeout=3)
    assert other.is_alive()
    assert host.calls == []
    os.close(folder)
    other.join(timeout=60)
    assert ended[0].code == 0
    assert host.stamps == ["t-web.service@a"]


def test_a_name_that_nobody_has_is_refused(host: Host) -> None:
    assert host.apply(host.service()).code == 0
    refused = host.apply(action="stopped", names=["wrong"])
    assert refused.code != 0
    assert "there is no service wrong; expected one of web" in refused.result["msg"]
    assert host.calls == []


def test_removing_leaves_nothing_behind(host: Host) -> None:
    units = host.folder / "units"
    # A checkout's on the same machine, which root runs.
    others = {units / "t-1a2b3c-web.service", units / "t-1a2b3c.target"}
    for other in others:
        other.touch()
    (units / "t-1a2b3c.target.wants").mkdir()
    assert host.apply(host.service(), host.service("web-2")).code == 0
    assert host.apply(action="removed").code == 0
    left = {path for path in units.rglob("*") if path.name.startswith("t")}
    assert left == others | {units / "t-1a2b3c.target.wants"}
    assert not (host.folder / "started.d").exists()
    assert not (host.folder / "services.d").exists()
    assert host.apply(action="removed").result["changed"] is False


def test_where_nothing_was_deployed_nothing_is_removed(host: Host) -> None:
    gone = host.apply(action="removed", unit_dir="/nowhere", state_dir="/nowhere")
    assert (gone.code, gone.result["changed"]) == (0, False)
    stopped = host.apply(action="stopped", names=["web"], state_dir="/nowhere")
    assert "nothing is deployed" in stopped.result["msg"]


def test_a_release_is_noted_once_the_service_runs_it(host: Host) -> None:
    definition = host.folder / "services.d" / "web.json"
    assert host.apply(host.service(release="r1", start_timeout=10)).code == 0
    # The other release is waited for in vain, which need not take as long.
    host.service(release="r1", start_timeout=1)
    bad = host.apply(action="reloaded", names=["web"], release="r2")
    assert bad.code != 0
    assert "it runs release r1" in bad.result["msg"]
    assert json.loads(definition.read_text())["release"] == "r1"
    # What does not run starts with it.
    assert host.apply(action="stopped", names=["web"]).code == 0
    assert host.apply(action="reloaded", names=["web"], release="r2").code == 0
    assert json.loads(definition.read_text())["release"] == "r2"
