"""The kit as hosts run it: one zip file under the system's Python, with nothing installed."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from support.checkout import free_ports
from support.models import script_model

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "files" / "kit" / "src"
PYTHON = Path("/usr/bin/python3")

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="there is no system Python")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("program") / "llamakit.pyz"
    with zipfile.ZipFile(file, "w") as archive:
        main = "import sys\nfrom llamakit.cli import main\nsys.exit(main())\n"
        archive.writestr("__main__.py", main)
        for source in SOURCES.rglob("*"):
            if source.is_file() and "__pycache__" not in source.parts:
                archive.write(source, source.relative_to(SOURCES))
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    script_model(folder / "models", "a.gguf")
    (folder / "models.yaml").write_text("models:\n  - {id: a, source: {path: a.gguf}}\n")
    return folder


@pytest.fixture(scope="module")
def document(place: Path) -> str:
    """What the controller reads, and hands to the host."""
    from llamakit.config import read_config

    return json.dumps(read_config(place / "models.yaml", place / "routes.yaml"))


def run(program: Path, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    # -I and -S: neither the environment nor any installed module can help.
    command = [str(PYTHON), "-I", "-S", "-X", "dev", str(program), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_it_plans(program: Path, place: Path, document: str) -> None:
    options = ["--models-dir", place / "models", "--state-dir", place, "--gpu-layers", "auto"]
    result = run(program, "plan", "--config", "-", *options, stdin=document)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    plan = json.loads(result.stdout)
    assert [model["state"] for model in plan["models"]] == ["present"]


def test_it_checks_before_anything_changes(program: Path, place: Path, document: str) -> None:
    options = ["--models-dir", place / "models", "--state-dir", place, "--place", "local"]
    options += ["--port-base", free_ports(1)[0]]
    result = run(program, "preflight", "--config", "-", *options, stdin=document)
    assert result.returncode == 0, result.stderr
    host = json.loads(result.stdout)["host"]
    assert host["kind"]
    tag = f"cpython-{host['python'].replace('.', '')}"
    assert host["interpreter"] == f"{tag} {PYTHON.parents[1]}"
    result = run(program, "preflight", "--config", "-", "--state-dir", place, stdin="{}")
    assert result.returncode == 2
    assert "read-config" in result.stderr
    assert "Traceback" not in result.stderr


def test_it_makes_the_smoke_model(program: Path, tmp_path: Path, document: str) -> None:
    options = ["--models-dir", tmp_path, "--smoke-dir", tmp_path / "smoke", "--allow-smoke"]
    result = run(program, "plan", "--config", "-", *options, stdin=document)
    assert result.returncode == 0, result.stderr
    model = json.loads(result.stdout)["models"][0]
    assert model["state"] == "present"
    assert Path(model["path"]).stat().st_size > 1_000_000


def test_it_tells_what_runs(program: Path, tmp_path: Path) -> None:
    (tmp_path / "services.d").mkdir()
    state = {"manager": "supervisord", "unit_prefix": "llamakit-", "place": "host"}
    (tmp_path / "state.json").write_text(json.dumps({**state, "proxy_url": "http://127.0.0.1:1"}))
    result = run(program, "status", "--state-dir", tmp_path, "--json")
    assert result.returncode == 3, result.stderr
    assert json.loads(result.stdout)["overall"] == "stopped"
    assert run(program, "gpu-proof", "--state-dir", tmp_path).returncode == 0


@pytest.mark.parametrize("command", ["certificate", "backup", "backups", "restore"])
def test_it_can_do_all_that_hosts_need(program: Path, command: str) -> None:
    result = run(program, command, "--help")
    assert result.returncode == 0, result.stderr


def test_what_needs_more_says_so(program: Path) -> None:
    result = run(program, "fetch")
    assert result.returncode == 2
    assert "needs the Python module httpx" in result.stderr
    assert "Traceback" not in result.stderr
    listed = run(program, "--help").stdout
    assert "preflight" in listed
    assert "fetch" not in listed
