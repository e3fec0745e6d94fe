"""Model servers that the tests ask directly, without a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamakit.smoke.model import write_smoke_model
from support.leftovers import run_folder
from support.model_server import Server, start, stop, write_config
from support.models import script_model


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where model servers run; what is left there when the tests are killed is ended."""
    with run_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def script(folder: Path) -> Iterator[Server]:
    """The scripted model, started with variables that would change or break the stock server."""
    stray = {"SEED": "hello", "CACHE": "/var/cache", "PORT": "tcp://10.0.0.1:80", "HOST": "nowhere"}
    stray |= {"API_KEY": "other", "N_CTX": "111", "ROOT_PATH": "/x"}
    server = start(write_config(folder, script_model(folder)), **stray)
    yield server
    stop(server)


@pytest.fixture(scope="session")
def smoke(folder: Path) -> Iterator[Server]:
    path = folder / "smoke.gguf"
    write_smoke_model(path)
    server = start(write_config(folder, path, n_ctx=8192))
    yield server
    stop(server)
