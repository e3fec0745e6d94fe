"""From a fresh clone to an endpoint that answers: as a user, as root, and as root below /root."""

import json
import re
from collections.abc import Iterator

import pytest

from cli.conftest import KINDS, NewCheckout
from support.checkout import Checkout
from support.processes import describe

SECRETS = ("llama_api_key", "postgres_superuser_password", "postgres_admin_password")


@pytest.fixture(scope="module", params=KINDS)
def fresh(
    request: pytest.FixtureRequest, new_checkout: NewCheckout
) -> Iterator[Checkout]:
    """A checkout of each kind after its first start."""
    if request.param == "user":
        yield request.getfixturevalue("started")
        return
    checkout = new_checkout(request.param)
    checkout.first_start = checkout.start()
    yield checkout
    checkout.discard()


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
    again = fresh.start()
    assert re.search(r"^localhost: 0 changed$", again.out, re.MULTILINE), again.out
    assert fresh.pids() == before
    assert again.seconds < 60


def test_services_run_without_rights(fresh: Checkout) -> None:
    running = fresh.processes()
    assert len(running) >= 4, describe(running)
    assert {process.username() for process in running} == {fresh.service_user}


def test_secrets_are_for_the_services_user_alone(fresh: Checkout) -> None:
    folder = fresh.path / "runtime" / "secrets"
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
