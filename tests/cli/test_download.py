"""Models from a hub: fetched, resumed, checked; a local server stands in for the hub."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import MODELS
from cli.test_faults import told
from support.checkout import Checkout, Run
from support.hub import Hub, running_hub
from support.processes import end_group, wait_for

FILE = "fetched-Q4_K_M.gguf"
WRONG = "ab" * 32


@pytest.fixture
def hub(made_models: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.files[f"owner/fetched-GGUF/{FILE}"] = (made_models / "script.gguf").read_bytes()
        yield hub


@pytest.fixture
def listed(three: Checkout, hub: Hub) -> Iterator[Checkout]:
    """The shared checkout, whose models.yaml lists a model that only the hub has."""
    list_model(three, hashlib.sha256(content(hub)).hexdigest())
    yield three
    (three.path / "config" / "models.yaml").write_text(MODELS)
    for left in (three.path / "models").glob(f"{FILE}*"):
        left.unlink()


def content(hub: Hub) -> bytes:
    (only,) = hub.files.values()
    return only


def list_model(checkout: Checkout, sha256: str) -> None:
    entry = (
        "  - id: fetched\n    source:\n      hf: owner/fetched-GGUF\n"
        f"      file: {FILE}\n      sha256: {sha256}\n"
    )
    (checkout.path / "config" / "models.yaml").write_text(MODELS + entry)


def add(checkout: Checkout, hub: Hub) -> Run:
    return checkout.console("add", "fetched", env={"HF_ENDPOINT": hub.url})


def test_add_fetches_and_use_runs_it(listed: Checkout, hub: Hub) -> None:
    before = listed.pids()
    run = add(listed, hub)
    assert run.code == 0, run.screen
    assert FILE in run.err
    assert "100" in run.err, "progress is shown"
    assert (listed.path / "models" / FILE).read_bytes() == content(hub)
    assert listed.pids() == before
    models = json.loads(listed.console("models", "--json").out)
    assert {model["id"]: model["state"] for model in models}["fetched"] == "present"
    used = listed.console("use", "fetched")
    assert used.code == 0, used.screen
    assert "llama-fetched" in listed.pids()


def test_a_killed_download_goes_on_where_it_was(listed: Checkout, hub: Hub) -> None:
    hub.fault.bytes_per_second = 400_000
    command = [str(listed.path / "console.sh"), "add", "fetched"]
    child = listed.spawn(command, env={"HF_ENDPOINT": hub.url})
    part = listed.path / "models" / f"{FILE}.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 300_000, 30, "a part of it is here")
    end_group(child.pid)
    child.communicate()
    kept = part.stat().st_size
    hub.fault.bytes_per_second = 0
    run = add(listed, hub)
    assert run.code == 0, run.screen
    (resumed,) = (wanted for wanted in hub.ranges() if wanted)
    assert 0 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= kept
    assert (listed.path / "models" / FILE).read_bytes() == content(hub)
    assert not part.exists()


def test_a_wrong_checksum_is_no_model(listed: Checkout, hub: Hub) -> None:
    list_model(listed, WRONG)
    before = listed.pids()
    told(add(listed, hub), "checksum", WRONG, "do:")
    started = listed.console("start", "multi", env={"HF_ENDPOINT": hub.url})
    told(started, "checksum", "do:")
    assert not (listed.path / "models" / FILE).exists()
    assert listed.pids() == before


def test_what_the_hub_does_not_have(listed: Checkout, hub: Hub) -> None:
    hub.files = {"owner/other-GGUF/x.gguf": b""}
    told(add(listed, hub), FILE, "404", "do:")


def test_no_hub(listed: Checkout) -> None:
    told(listed.console("add", "fetched"), "127.0.0.1:9", "do:")
