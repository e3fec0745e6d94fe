"""Ports and addresses before a start: which are taken, by whom, and which could not be had."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llamakit.preflight.addresses import refused_addresses, unprivileged_port_start
from llamakit.preflight.listeners import find_listener
from llamakit.preflight.ports import busy_ports, cluster_ports
from llamakit.preflight.wants import Wants
from unit.kit.test_preflight import ANYWHERE, model


def test_a_busy_port_is_told_with_its_program(listener: int, tmp_path: Path) -> None:
    wants = Wants("host", tmp_path, tmp_path, tmp_path, {"proxy": ("127.0.0.1", listener)})
    (problem,) = busy_ports(wants, None)
    assert str(find_listener(listener)) in problem.found
    assert "auth_proxy_port in group_vars" in problem.remedy
    (problem,) = busy_ports(dataclasses.replace(wants, place="local"), None)
    assert "config/local.env" in problem.remedy
    (problem,) = busy_ports(
        dataclasses.replace(wants, services={"proxy": (ANYWHERE, listener)}), None
    )
    assert ANYWHERE in problem.where


def test_two_services_may_not_have_one_port(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    services = {"proxy": ("127.0.0.1", port), "postgres": ("127.0.0.1", port)}
    (problem,) = busy_ports(Wants("host", tmp_path, tmp_path, tmp_path, services), None)
    assert "the port of proxy, too" in problem.found


def test_the_port_of_our_own_cluster(tmp_path: Path) -> None:
    for name, port in (("15/main", 5432), ("15/llamakit", 5433)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "postgresql.conf").write_text(f"#port = 1\nport = {port}\t# note\n")
    assert cluster_ports(tmp_path) == {5433}


ELSEWHERE = "192.0.2.1"  # for documentation: no machine has it


@pytest.mark.parametrize(
    ("manager", "told"),
    [("supervisord", "both"), ("systemd-user", "the port"), ("systemd-system", "nothing")],
)
def test_what_the_proxy_may_not_listen_on(manager: str, told: str, tmp_path: Path) -> None:
    port = unprivileged_port_start() - 1
    if port < 1:
        pytest.skip("every port is free for all here")
    services = {"proxy": (ELSEWHERE, port)}
    wants = Wants("local", tmp_path, tmp_path, tmp_path, services, manager=manager)
    problems = [str(problem) for problem in refused_addresses(wants, None)]
    if told != "nothing":
        assert f"port {port} on {ELSEWHERE}, for proxy" in problems[0]
        assert f"a port from {port + 1} on" in problems[0]
        assert "LLAMA_PROXY_PORT= in config/local.env" in problems[0]
    if told == "both":
        assert f"the address {ELSEWHERE}, for proxy" in problems[1]
        assert "correct LLAMA_PROXY_HOST= in config/local.env" in problems[1]
    assert len(problems) == {"both": 2, "the port": 1, "nothing": 0}[told]


def test_a_models_address_is_checked_whoever_runs_it(tmp_path: Path) -> None:
    plan = {"models": [model("a", port=1, server={"host": ELSEWHERE})]}
    wants = Wants("host", tmp_path, tmp_path, tmp_path, manager="systemd-system")
    problems = list(refused_addresses(wants, plan))
    assert "correct llama_server_host in group_vars" in problems[-1].remedy
    plan = {"models": [model("a", port=65000, server={"host": ANYWHERE})]}
    assert not list(refused_addresses(wants, plan))


def test_a_process_below_one_of_ours_is_ours(listener: int) -> None:
    found_listener = find_listener(listener)
    assert found_listener.descends_from({os.getpid()})
    assert found_listener.descends_from({os.getppid()})
    assert not found_listener.descends_from({2**22 + 1})
    assert not find_listener(1).descends_from({os.getpid()})


def test_another_process_that_listens_is_named(tmp_path: Path) -> None:
    program = (
        "import socket, sys\n"
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found_listener = find_listener(port)
        assert found_listener.pid == process.pid
        process.communicate("")
    assert not find_listener(port).exists
