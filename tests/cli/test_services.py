"""Services: what status tells, what the verbs act on, and what happens when processes die."""

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from support.checkout import Checkout, kill
from support.processes import describe, wait_for

SERVICES = {"postgres", "llama-script", "llama-embed", "llama-shard", "proxy"}
HEAL_SECONDS = 25  # 10 are promised, on a machine that does nothing else


def test_status_lists_every_service(three: Checkout) -> None:
    status = three.status()
    assert status["mode"] == "multi"
    assert status["overall"] == "up"
    services = {service["name"]: service for service in status["services"]}
    assert set(services) == SERVICES
    assert services["proxy"]["port"] == three.proxy_port
    assert services["postgres"]["port"] == three.postgres_port
    models = {name: service["port"] for name, service in services.items() if "llama" in name}
    assert len(set(models.values())) == 3
    for service in services.values():
        assert service["state"] == "up"
        assert psutil.pid_exists(service["pid"])
        assert service["memory_bytes"] > 1_000_000
    table = three.console("status")
    assert table.code == 0
    for name, service in services.items():
        (line,) = (line for line in table.out.splitlines() if line.startswith(f"{name} "))
        assert str(service["pid"]) in line.split()
        assert str(service["port"]) in line.split()
    assert all(len(line) <= 80 for line in table.out.splitlines()), table.out


def test_status_is_quick(three: Checkout) -> None:
    # Two seconds are promised; a machine that runs tests may take a little longer.
    assert min(three.console("status").seconds for _ in range(3)) < 4


def test_status_is_quick_when_a_service_hangs(three: Checkout) -> None:
    pid = three.pids()["llama-embed"]
    os.kill(pid, signal.SIGSTOP)
    try:
        runs = [three.console("status") for _ in range(3)]
        assert {run.code for run in runs} <= {0, 1}
        assert min(run.seconds for run in runs) < 6
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(three.all_up, HEAL_SECONDS, "everything is up again")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_killed_service_comes_back(three: Checkout, name: str) -> None:
    before = three.services()[name]
    others = {other: pid for other, pid in three.pids().items() if other != name}
    kill(before["pid"])
    wait_for(lambda: three.pids()[name] not in (before["pid"], None), HEAL_SECONDS, "a new process")
    wait_for(three.all_up, HEAL_SECONDS, "everything is up again")
    after = three.services()
    assert after[name]["restarts"] > before["restarts"], "status shows that it was restarted"
    assert {other: after[other]["pid"] for other in others} == others, "nothing else was touched"


def watchdog(checkout: Checkout) -> int:
    (found,) = (
        process.pid
        for process in checkout.processes()
        if any(part.endswith("watchdog.py") for part in process.cmdline())
    )
    return found


def postmaster_children(checkout: Checkout) -> int:
    return int(psutil.Process(checkout.pids()["postgres"]).children()[0].pid)


@pytest.mark.parametrize(
    "victim",
    [Checkout.supervisor_pid, watchdog, postmaster_children],
    ids=lambda find: find.__name__,
)
def test_killing_what_is_no_service_heals_too(
    three: Checkout, victim: Callable[[Checkout], int]
) -> None:
    pid = victim(three)
    kill(pid)
    wait_for(lambda: not psutil.pid_exists(pid), 10, "it is gone")
    wait_for(lambda: watching(three), HEAL_SECONDS, "supervisor and watchdog run")
    wait_for(three.all_up, HEAL_SECONDS, "everything is up again")
    running = describe(three.processes())
    assert sum("supervisor.supervisord" in line for line in running) == 1, running
    assert sum("watchdog.py" in line for line in running) == 1, running
    assert sum("llamakit_server.launch" in line for line in running) == 3, running


def watching(checkout: Checkout) -> bool:
    running = " ".join(describe(checkout.processes()))
    return "watchdog.py" in running and "supervisor.supervisord" in running


def test_everything_killed_at_once_starts_again(three: Checkout) -> None:
    for process in three.processes():
        process.suspend()
    for process in three.processes():
        process.kill()
    wait_for(lambda: not three.processes(), 10, "all are gone")
    status = three.console("status")
    assert status.code == 3, status.screen
    three.start()
    assert three.all_up()
    assert three.status()["mode"] == "multi"


def test_settings_that_an_interrupted_start_left_are_put_right(three: Checkout) -> None:
    settings = three.path / "runtime" / "current" / "proxy.env"
    right = settings.read_text()
    settings.write_text(right.replace("LLAMA_PROXY_RATE_LIMIT=", "LLAMA_PROXY_RATE_LIMIT=9"))
    assert settings.read_text() != right
    before = three.pids()["proxy"]
    kill(before)
    wait_for(lambda: three.pids()["proxy"] not in (before, None), HEAL_SECONDS, "a new process")
    with_the_wrong = three.pids()["proxy"]
    three.start()
    assert settings.read_text() == right
    assert three.pids()["proxy"] != with_the_wrong
    assert three.all_up()


def test_a_secret_of_the_database_that_was_lost_is_made_anew(three: Checkout) -> None:
    key = three.new_key("lasting")
    for name in ("postgres_superuser_password", "postgres_proxy_password"):
        (three.path / "data" / "secrets" / name).unlink()
    three.start()
    assert three.all_up()
    with three.client(key) as client:
        assert client.get("/v1/models").status_code == 200
    backup = three.console("backup")
    assert backup.code == 0, backup.screen
    before = three.pids()
    three.start()
    assert three.pids() == before


def test_restart_acts_on_the_mode_that_runs(three: Checkout) -> None:
    before = three.pids()
    run = three.console("restart")
    assert run.code == 0, run.screen
    after = three.pids()
    assert set(after) == SERVICES
    assert not set(before.values()) & set(after.values())
    assert three.status()["mode"] == "multi"


def test_restart_of_one_service_leaves_the_others(three: Checkout) -> None:
    before = three.pids()
    assert three.console("restart", "llama-embed").code == 0
    after = three.pids()
    assert {name for name in SERVICES if before[name] != after[name]} == {"llama-embed"}


def test_the_proxy_alone_stops_and_starts(three: Checkout) -> None:
    before = three.pids()
    assert three.console("stop-proxy").code == 0
    stopped = three.services()
    assert stopped["proxy"]["state"] == "stopped"
    assert stopped["llama-script"]["pid"] == before["llama-script"]
    assert three.console("status").code == 1
    assert three.console("start-proxy").code == 0
    assert three.all_up()


def test_stop_ends_every_process(three: Checkout) -> None:
    began = time.monotonic()
    run = three.console("stop")
    assert run.code == 0, run.screen
    assert describe(three.processes()) == []
    assert time.monotonic() - began < 60
    again = three.console("stop")
    assert again.code == 0, "stopping what is stopped is no error"


def test_single_mode_and_use(with_models: Checkout) -> None:
    """An alias and a number choose a model as well as its id does."""
    run = with_models.start("single", "--model", "script.gguf")
    status = with_models.status()
    assert (status["mode"], status["model"]) == ("single", "script"), run.screen
    assert set(with_models.pids()) == {"postgres", "llama-script", "proxy"}
    proxy = with_models.pids()["proxy"]
    used = with_models.console("use", "2")
    assert used.code == 0, used.screen
    assert with_models.status()["model"] == "embed"
    assert set(with_models.pids()) == {"postgres", "llama-embed", "proxy"}
    assert with_models.pids()["proxy"] == proxy, "the proxy takes up new routes while it runs"
    assert with_models.console("restart").code == 0
    assert with_models.status()["model"] == "embed"
    assert with_models.console("stop").code == 0
    with_models.start()
    assert with_models.status()["model"] == "embed", "start remembers"


def test_use_asks_on_a_terminal_alone(with_models: Checkout) -> None:
    run = with_models.console("use")
    assert run.code == 2
    assert "./console.sh models" in run.err
