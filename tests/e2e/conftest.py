"""Fixtures of the layer e2e: OpenAI's JavaScript client, and a proxy with real model servers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.backend import free_port, running_backend
from support.models import embedding_model, script_model, tools_model
from support.postgres import running_postgres
from support.proxy import Proxy, model_entry, running_proxy

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "runtime"
OLDEST = 18
MISSING = f"expected Node.js {OLDEST} or newer, with npm; as root: apt-get install nodejs npm"


@pytest.fixture(scope="session")
def client_folder() -> Path:
    """A folder with the scripts, and the client of the lock beside them."""
    _check_node()
    lock = HERE / "package-lock.json"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = RUNTIME / "e2e"
    if not (folder / f"complete-{digest}").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in (lock, HERE / "package.json"):
            shutil.copy(file, folder)
        cache = os.environ.get("NPM_CONFIG_CACHE", str(RUNTIME / "cache" / "npm"))
        _run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            folder,
            {"NPM_CONFIG_CACHE": cache},
        )
        (folder / f"complete-{digest}").touch()
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with the models that the cases name; the one called "away" does not run."""
    folder = tmp_path_factory.mktemp("models")
    with (
        running_postgres() as postgres,
        running_backend(script_model(folder), n_ctx=8192) as script,
        running_backend(tools_model(folder)) as tools,
        running_backend(
            embedding_model(folder), embedding=True, n_ctx=512, n_batch=512, n_ubatch=512
        ) as embed,
    ):
        models = [
            model_entry("script", script.url, aliases=["script.gguf"], n_ctx=8192, max_tokens=8000),
            model_entry("tools", tools.url, tools="hermes"),
            model_entry("embed", embed.url, kind="embedding", n_ctx=512),
            model_entry("away", f"http://127.0.0.1:{free_port()}"),
        ]
        with running_proxy(postgres, tmp_path_factory.mktemp("proxy"), models) as proxy:
            yield proxy


@pytest.fixture(scope="session")
def results(client_folder: Path, proxy: Proxy) -> dict[str, str | None]:
    """What came of each case: its error, or None."""
    keys = {
        "user": proxy.new_key(),
        "limited": proxy.new_key(rate_limit=1),
        "restricted": proxy.new_key(allowed_models=["embed"]),
    }
    told = {"LLAMAKIT_E2E": json.dumps({"url": proxy.url, "keys": keys})}
    lines = _run(["node", "run.mjs"], client_folder, told).splitlines()
    return {result["name"]: result["error"] for result in map(json.loads, lines)}


def _check_node() -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.fail(f"node or npm is missing; {MISSING}", pytrace=False)
    found = _run(["node", "--version"], HERE, {}).strip()
    if int(found.removeprefix("v").split(".")[0]) < OLDEST:
        pytest.fail(f"node is {found}; {MISSING}", pytrace=False)


def _run(command: list[str], folder: Path, more: dict[str, str]) -> str:
    """What the command prints; the test fails with its errors when it does."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout
