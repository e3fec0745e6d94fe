"""From a fresh clone to an endpoint that answers, and back to a fresh clone.

As an ordinary user whose first start was killed again and again, as root, and as root in a folder
that nobody else can enter.
"""

import json
import pwd
import re
import time
from collections.abc import Iterator

import pytest

from cli.conftest import KINDS, NewCheckout
from support.checkout import Checkout, Run
from support.processes import describe, end_group

SECRETS = ("llama_api_key", "postgres_superuser_password", "postgres_admin_password")


# What start prints just before the moments at which it is killed.
MOMENTS = [
    "==> Install the controller",
    "Ensure the folders exist",
    "Create the Python environment for postgresql",
    "Make the cluster",
    "Bring up postgres",
    "Create the Python environment for llama_server",
    "Bring up llama-",
    "Write the release",
    "Ensure the database and its roles exist",
    "Point to the release",
    "==> Prove that it works",
]
AT_WORK = "another ./console.sh is at work"


@pytest.fixture(scope="module", params=KINDS)
def fresh(request: pytest.FixtureRequest, new_checkout: NewCheckout) -> Iterator[Checkout]:
    """A checkout of each kind after its first start."""
    checkout = new_checkout(request.param)
    if request.param == "user":
        killed = [moment for moment in MOMENTS if kill_at(checkout, moment)]
        assert len(killed) >= 6, killed
        checkout.first_start = patient_start(checkout)
    else:
        checkout.first_start = checkout.start()
    yield checkout
    checkout.discard()


def kill_at(checkout: Checkout, moment: str) -> bool:
    """Starts, and kills the whole process group when ``moment`` is printed; whether it was."""
    while True:
        child = checkout.spawn(["bash", "-c", "exec ./console.sh start 2>&1"])
        assert child.stdout is not None
        line = ""
        try:
            for line in child.stdout:
                if moment in line:
                    return True
            if AT_WORK not in line:
                return False
        finally:
            end_group(child.pid)
            child.communicate()


def patient_start(checkout: Checkout) -> Run:
    """``start``, repeated while what a killed one has left behind is still at work."""
    deadline = time.monotonic() + 120
    while True:
        run = checkout.console("start")
        if AT_WORK not in run.err or time.monotonic() > deadline:
            assert run.code == 0, run.screen
            return run
        time.sleep(1)


def test_a_first_start_says_how_to_go_on(fresh: Checkout) -> None:
    assert fresh.first_start is not None
    out = fresh.first_start.out
    end = out[out.index("llamakit is up") :]
    assert f"{fresh.url}/v1" in end
    assert "./console.sh user create --username alice" in end
    assert "curl" in end
    assert "smoke model" in end, "what answers must be told"
    assert len(end.splitlines()) <= 24


def test_what_it_says_can_be_pasted(fresh: Checkout) -> None:
    assert fresh.first_start is not None
    end = fresh.first_start.out.partition("llamakit is up")[2]
    create = re.search(r"\./console\.sh user create --username alice", end)
    assert create
    made = fresh.run(["bash", "-c", create[0]])
    assert made.code == 0, made.screen
    key = made.out.strip()
    assert re.fullmatch(r"sk-lk-\S+", key), "the key alone is on stdout"
    curls = end[end.index("curl ") : end.index("What runs")]
    script = f"set -e; export LLAMAKIT_KEY={key}\n{curls}"
    answers = fresh.run(["bash", "-c", script])
    assert answers.code == 0, answers.screen
    decoder = json.JSONDecoder()
    models, length = decoder.raw_decode(answers.out)
    chat, _ = decoder.raw_decode(answers.out[length:].lstrip())
    assert models["data"][0]["owned_by"] == "llamakit-smoke"
    assert "smoke model" in chat["choices"][0]["message"]["content"]


def test_a_second_start_changes_nothing(fresh: Checkout) -> None:
    before = fresh.pids()
    # Nor does it compile what the first one was given, and this one is not.
    again = fresh.start(env={"LLAMAKIT_WHEELHOUSE": ""})
    assert re.search(r"^localhost: 0 changed$", again.out, re.MULTILINE), again.out
    assert fresh.pids() == before


def test_services_run_without_rights(fresh: Checkout) -> None:
    running = fresh.processes()
    assert len(running) >= 4, describe(running)
    assert {process.username() for process in running} == {fresh.service_user}


def test_secrets_are_for_the_services_user_alone(fresh: Checkout) -> None:
    folder = fresh.path / "data" / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    for secret in folder.iterdir():
        assert secret.stat().st_mode & 0o777 == 0o600, secret
    for name in SECRETS:
        assert len((folder / name).read_text().strip()) >= 32


def test_only_loopback_is_listened_on(fresh: Checkout) -> None:
    listening = [
        connection.laddr
        for process in fresh.processes()
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    ]
    assert {address[1] for address in listening} >= {fresh.proxy_port, fresh.postgres_port}
    assert {address[0] for address in listening} <= {"127.0.0.1", "::1"}


def test_stop_leaves_nothing_running_and_start_brings_it_back(fresh: Checkout) -> None:
    stopped = fresh.console("stop")
    assert stopped.code == 0, stopped.screen
    assert describe(fresh.processes()) == []
    status = fresh.console("status")
    assert status.code == 3
    assert "./console.sh start" in status.out
    fresh.start()
    assert fresh.all_up()


def test_half_made_things_are_gone(fresh: Checkout) -> None:
    runtime = fresh.path / "runtime"
    left = [
        str(path.relative_to(fresh.path))
        for pattern in ("**/.write_files-*", "tmp.*", "*.new", "**/*.part")
        for folder in (runtime.resolve(), (fresh.path / "data").resolve())
        for path in folder.glob(pattern)
    ]
    assert left == []
    for name in ("supervisor", "postgresql", "llama_server", "proxy"):
        (environment,) = (runtime / name).iterdir()
        assert (environment / ".complete").exists()


@pytest.mark.parametrize("fresh", ["user"], indirect=True)
def test_uninstall_keeps_models_users_and_keys(fresh: Checkout) -> None:
    key = fresh.new_key("kim")
    (fresh.path / "models" / "kept.txt").write_text("a model, for all that uninstall knows")
    fresh.start("multi")
    run = fresh.console("uninstall")
    assert run.code == 0, run.screen
    assert "models/ and data/" in run.out
    assert describe(fresh.processes()) == []
    assert not (fresh.path / "runtime").exists()
    assert (fresh.path / "models" / "kept.txt").exists()
    fresh.start()
    assert fresh.status()["mode"] == "multi"
    with fresh.client(key) as client:
        assert client.get("/v1/models").status_code == 200


def test_purge_leaves_a_fresh_clone(fresh: Checkout) -> None:
    assert (fresh.path / "runtime").exists()
    hidden = (fresh.path / "runtime").is_symlink()
    assert fresh.state.exists() == hidden
    run = fresh.console("uninstall", "--purge", "--yes")
    assert run.code == 0, run.screen
    assert describe(fresh.processes()) == []
    assert sorted(fresh.tree() - fresh.fresh) == []
    assert sorted(fresh.fresh - fresh.tree()) == []
    assert not fresh.state.exists()
    if fresh.account.uid == 0:
        assert fresh.service_user not in {entry.pw_name for entry in pwd.getpwall()}
    assert [path for path in fresh.account.home.rglob("*") if "ansible" in path.name] == []
