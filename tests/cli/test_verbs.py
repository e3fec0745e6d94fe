"""The command line itself: its help, its refusals, and the verbs that change nothing much."""

import fcntl
import json
import os
import re
import signal
from pathlib import Path

import pytest

from cli.conftest import NewCheckout
from support.checkout import Checkout
from support.processes import end_group, wait_for

VERBS = [
    "setup", "install", "start", "stop", "restart", "status", "models", "use", "add",
    "start-proxy", "stop-proxy", "logs", "user", "usage", "backup", "backups", "restore",
    "rollback", "upgrade", "verify", "doctor", "bundle", "test", "uninstall", "help",
]  # fmt: skip


def test_help_lists_every_verb(started: Checkout) -> None:
    for arguments in ((), ("help",), ("--help",), ("-h",)):
        run = started.console(*arguments)
        assert run.code == 0
        assert re.findall(r"^  ([a-z-]+) ", run.out, re.MULTILINE) == VERBS


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("--frobnicate",),
        ("-l",),
        ("-i", "inventory/hosts.yml", "stop"),
        ("-i", "inventory/hosts.yml", "uninstall", "--purge", "--yes"),
        ("-l", "gpu01", "frobnicate"),
        ("-l", "gpu01", "models"),
        ("-l", "gpu01", "logs", "-f"),
        ("-l", "gpu01", "restore"),
        ("-l", "gpu01", "uninstall", "--purge"),
        ("setup", "x"),
        ("start", "quickly"),
        ("start", "--model"),
        ("start", "--model", "--frobnicate"),
        ("start", "--frobnicate"),
        ("install", "x"),
        ("stop", "proxy"),
        ("restart", "../proxy"),
        ("status", "--yaml"),
        ("models", "--yaml"),
        ("use", "a", "b"),
        ("use", "--frobnicate"),
        ("add", "a", "b"),
        ("add", "--frobnicate"),
        ("restart", "--frobnicate"),
        ("start-proxy", "x"),
        ("stop-proxy", "x"),
        ("logs", "--forever"),
        ("logs", "a", "b"),
        ("logs", "../../etc/passwd"),
        ("user",),
        ("user", "frobnicate"),
        ("user", "create"),
        ("usage", "--by", "colour"),
        ("backup", "x"),
        ("backups", "--frobnicate"),
        ("restore",),
        ("restore", "a", "b"),
        ("restore", "latest"),
        ("rollback", "x"),
        ("upgrade", "x"),
        ("verify", "--frobnicate"),
        ("doctor", "--frobnicate"),
        ("test", "everything"),
        ("test", "unit", "proxy"),
        ("uninstall", "--frobnicate"),
        ("uninstall", "--purge"),
        ("help", "me"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_refused_in_a_few_lines(
    started: Checkout, arguments: tuple[str, ...]
) -> None:
    run = started.console(*arguments)
    assert run.code == 2, run.screen
    assert 1 <= len(run.err.splitlines()) <= 12, run.screen
    assert "Traceback" not in run.screen
    assert not run.out, run.out
    assert not re.search(r"(?m)^usage: (?!\./console\.sh )", run.err), run.err


def test_restart_and_logs_of_what_is_not_there(three: Checkout) -> None:
    restarted = three.console("restart", "nosuch")
    assert restarted.code != 0
    assert "nosuch" in restarted.screen
    assert "proxy" in restarted.screen, "what there is instead"
    assert "watchdog" not in restarted.screen, "which is no service of the user's"
    logs = three.console("logs", "nosuch")
    assert logs.code == 1
    assert "proxy" in logs.err


def test_nothing_is_installed_yet(new_checkout: NewCheckout) -> None:
    """Verbs that need an installation say so, quickly, and make nothing."""
    checkout = new_checkout("user")
    before = checkout.tree()
    for arguments in (
        ("stop",), ("restart",), ("status",), ("logs",), ("user", "list"), ("usage",), ("verify",),
        ("start-proxy",), ("stop-proxy",), ("backup",), ("backups",), ("rollback",), ("upgrade",),
        ("restore", "latest", "--yes"),
    ):  # fmt: skip
        run = checkout.console(*arguments)
        assert run.code == (3 if arguments == ("status",) else 1), arguments
        assert "./console.sh start" in run.err
        assert len(run.err.splitlines()) <= 3
    run = checkout.console("status", "--json")
    assert run.code == 3
    assert json.loads(run.out) == {
        "overall": "stopped", "mode": None, "model": None, "services": [],
    }  # fmt: skip
    assert checkout.tree() == before


def test_a_host_that_is_in_no_inventory(started: Checkout) -> None:
    run = started.console("-l", "nosuch", "status")
    assert run.code == 1
    assert "nosuch" in run.screen
    assert "inventory/hosts.yml" in run.screen
    assert "Traceback" not in run.screen


def test_the_inventory_as_it_comes_has_no_host_yet(started: Checkout) -> None:
    for verb in ("status", "start"):
        run = started.console("-l", "gpu01", verb)
        assert run.code == 1
        assert "192.0.2.10" in run.err
        assert "inventory/hosts.yml" in run.err


def test_verbs_work_from_anywhere(three: Checkout) -> None:
    run = three.console("status", cwd=three.account.home)
    assert run.code == 0, run.screen
    link = three.account.home / "kit"
    link.symlink_to(three.path / "console.sh")
    assert three.run([str(link), "status"], cwd=three.account.home).code == 0
    link.unlink()


def test_a_second_console_at_the_same_time_says_so(three: Checkout) -> None:
    first = three.spawn([str(three.path / "console.sh"), "restart"])
    try:
        assert first.stdout is not None
        assert "Act on the services" in first.stdout.readline()
        second = three.console("restart")
        assert second.code == 1
        assert "another ./console.sh" in second.err
        assert three.console("status").code in (0, 1, 3), "looking is always allowed"
        out, err = first.communicate(timeout=120)
        assert first.returncode == 0, out + err
    finally:
        end_group(first.pid)
    assert three.all_up()


def test_without_its_controller_nothing_is_removed_below_what_runs(three: Checkout) -> None:
    """An installation of another controller that is cut short leaves none."""
    runtime = three.path / "runtime"
    stamp = (runtime / "controller" / ".complete").rename(runtime / "stamp")
    try:
        stopped = three.console("stop")
        assert (stopped.code, "./console.sh setup" in stopped.err) == (1, True), stopped.screen
        with (runtime / "console.lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            removed = three.console("uninstall")
        assert removed.code == 1, "it makes a controller first, and may not now"
        assert "another ./console.sh" in removed.err, removed.screen
    finally:
        stamp.rename(runtime / "controller" / ".complete")
    assert three.all_up()


def test_an_interrupted_verb_says_how_to_go_on(three: Checkout) -> None:
    # A shell that runs these tests in its background has SIGINT ignored, and hands that down.
    console = ["env", "--default-signal=INT", str(three.path / "console.sh")]
    child = three.spawn([*console, "restart"])
    try:
        assert child.stdout is not None
        assert "Act on the services" in child.stdout.readline()
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=120)
    finally:
        end_group(child.pid)
    assert child.returncode == 130, err
    assert "interrupted" in err
    assert "run the same command again" in err
    assert three.console("restart").code == 0
    assert three.all_up()


def test_logs(three: Checkout) -> None:
    assert "script" in three.console("logs", "script").out
    everything = three.console("logs").out
    assert "proxy.log" in everything
    assert "postgres.log" in everything
    following = three.spawn([str(three.path / "console.sh"), "logs", "proxy", "-f"])
    try:
        assert following.stdout is not None
        assert following.stdout.readline()
        assert following.poll() is None, "it goes on"
    finally:
        end_group(following.pid)
        following.communicate()


def test_models_are_numbered(three: Checkout) -> None:
    table = three.console("models")
    assert table.code == 0
    rows = re.findall(r"^ +(\d+)[* ] (\S+) +\S+ +(\d) .* present$", table.out, re.MULTILINE)
    assert rows == [("1", "script", "1"), ("2", "embed", "1"), ("3", "shard", "3")]


def test_verify_proves_each_model(three: Checkout) -> None:
    run = three.console("verify")
    assert run.code == 0, run.screen
    assert "401" in run.out
    for model in ("script", "embed", "shard"):
        assert model in run.out


def test_doctor_finds_this_machine_fit(three: Checkout) -> None:
    run = three.console("doctor")
    assert run.code == 0, run.screen
    assert not re.search(r"^fail", run.out, re.MULTILINE)


def test_users_and_usage(three: Checkout) -> None:
    key = three.new_key("hal", "--rate-limit", "0")
    with three.client(key) as client:
        body = {"model": "script", "messages": [{"role": "user", "content": "hello"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert "hal" in three.console("user", "list").out
    wait_for(lambda: "hal" in three.console("usage").out, 10, "the request is counted")
    by_day = three.console("usage", "--user", "hal", "--by", "user,model,day")
    assert "script" in by_day.out, by_day.screen
    missing = three.console("user", "show", "nobody").err
    assert "`./console.sh user list`" in missing
    for command in ("user list --json", "user list", "models --json", "status --json", "usage"):
        piped = three.run(["bash", "-c", f"./console.sh {command} | true"])
        assert (piped.code, piped.screen) == (0, ""), "who reads no more is told nothing"
    assert three.console("user", "set-limit", "hal", "--rate-limit", "5").code == 0
    assert "5 per" in three.console("user", "show", "hal").out
    assert three.console("user", "delete", "hal").code != 0, "asks first"
    assert three.console("user", "delete", "hal", "--yes").code == 0
    assert "hal" not in three.console("user", "list").out
    twice = [three.console("user", "create", "--username", "ivy").code for _ in range(2)]
    assert twice[0] == 0 != twice[1]


def test_scripts_that_know_the_old_names(three: Checkout) -> None:
    bin_ = three.path / "bin"
    assert three.run([str(bin_ / "user_management_cli.sh"), "init-db"], cwd=Path("/")).code == 0
    made = three.run([str(bin_ / "bootstrap_user_cli.sh"), "--username", "judy"])
    assert made.code == 0, made.screen
    with three.client(made.out.strip()) as client:
        assert client.get("/v1/models").status_code == 200
    listed = three.run([str(bin_ / "user_management_cli.sh"), "list-users", "--json"])
    assert "judy" in {user["username"] for user in json.loads(listed.out)}
