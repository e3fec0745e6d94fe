"""Fixtures of console.sh's tests: copies of this checkout, each with its user and ports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.account import Account, ordinary_user, ourselves
from support.checkout import SOURCE, Checkout, copy_checkout
from support.leftovers import run_folder
from support.models import embedding_model, script_model, sharded_model

NewCheckout = Callable[..., Checkout]

MODELS = """\
---
models:
  - id: script
    aliases: [script.gguf]
    source: {path: script.gguf}
    n_ctx: 4096
  - id: embed
    source: {path: embed.gguf}
    kind: embedding
    n_ctx: 512
# A sharded model lies under models/ and is in no list.
"""

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try what root sees")
KINDS = [
    "user",
    pytest.param("root", marks=ROOT_ONLY),
    # Nobody else may enter the folder, as with a clone below /root.
    pytest.param("root-hidden", marks=ROOT_ONLY),
]


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """The folder of this run, which every user may enter."""
    with run_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def user(folder: Path) -> Iterator[Account]:
    """A user without rights."""
    with ordinary_user(folder / "home") as account:
        yield account


@pytest.fixture(scope="session")
def root(folder: Path) -> Account:
    """Ourselves; only used where we are root."""
    return ourselves(folder / "root-home")


@pytest.fixture(scope="session")
def wheelhouse(folder: Path) -> Path:
    """The wheel of llama-cpp-python where every user can read it."""
    # tests/run.sh says where; by hand it is where ./console.sh install puts what it builds.
    source = Path(os.environ.get("LLAMAKIT_WHEELHOUSE", SOURCE / "runtime/wheelhouse/cpu"))
    target = folder / "wheelhouse"
    target.mkdir()
    for wheel in source.glob("llama_cpp_python-*.whl"):
        shutil.copy(wheel, target)
    return target


@pytest.fixture(scope="session")
def new_checkout(
    folder: Path, user: Account, root: Account, wheelhouse: Path
) -> Iterator[NewCheckout]:
    """``new_checkout(kind="user", **environment)``: a fresh copy, stopped at the end."""
    made: list[Checkout] = []

    def new(kind: str = "user", **environment: str) -> Checkout:
        account = user if kind == "user" else root
        place = folder / f"{kind}-{len(made)}"
        if kind == "root-hidden":
            place.mkdir(mode=0o700)
            place /= "clone"
        cache = folder / f"pip-{account.name}"
        if not cache.exists():
            _seed(cache, account)
        checkout = copy_checkout(place, account, wheelhouse, cache, **environment)
        made.append(checkout)
        return checkout

    yield new
    for checkout in made:
        checkout.discard()


def _seed(cache: Path, account: Account) -> None:
    """Gives the account what pip has downloaded here already, which is the same packages."""
    known = os.environ.get("PIP_CACHE_DIR")
    if known and Path(known).is_dir():
        shutil.copytree(known, cache)
    else:
        cache.mkdir()
    account.own(cache)


@pytest.fixture(scope="session")
def started(new_checkout: NewCheckout) -> Checkout:
    """The ordinary user's checkout, started once for all tests; the smoke model runs in it."""
    checkout = new_checkout("user")
    checkout.first_start = checkout.start()
    return checkout


@pytest.fixture(scope="session")
def made_models(folder: Path) -> Path:
    """A folder with the tests' models, as somebody would hand them over."""
    models = folder / "handed-over"
    script_model(models)
    embedding_model(models)
    sharded_model(models / "shard")
    return models


@pytest.fixture(scope="session")
def with_models(started: Checkout, made_models: Path) -> Checkout:
    """The shared checkout with three models: two listed, and a sharded one copied there."""
    models = (started.path / "models").resolve()
    shutil.copytree(made_models, models, dirs_exist_ok=True)
    (started.path / "config" / "models.yaml").write_text(MODELS)
    started.account.own(models)
    return started


@pytest.fixture
def three(with_models: Checkout) -> Checkout:
    """All three models running, whatever the test before has done."""
    status = with_models.status()
    if status["mode"] != "multi" or status["overall"] != "up" or len(status["services"]) != 5:
        with_models.start("multi", "--model", "script")
    return with_models
