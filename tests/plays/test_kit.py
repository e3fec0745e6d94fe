"""The kit action: the kit's own program on a machine that has nothing but Python."""

import json
import subprocess
from pathlib import Path
from typing import Any

from support.play import Play, run_tasks

MODELS = "models:\n  - id: tiny\n    source: {path: /nowhere/tiny.gguf}\n"


def kit(folder: Path, *arguments: str, **options: Any) -> Play:
    task = {"name": "Run the kit", "kit": options, "register": "result"}
    return run_tasks(folder, [task], *arguments)


def plan(folder: Path, models: str) -> Play:
    file = folder / "models.yaml"
    file.write_text(models)
    return kit(
        folder,
        models=str(file),
        routes=str(folder / "proxy_routes.yaml"),
        argv=["plan", "--config", "-", "--models-dir", str(folder), "--smoke-dir", str(folder)],
    )


def test_the_plan_is_made_where_the_models_are(tmp_path: Path) -> None:
    played = plan(tmp_path, MODELS)
    assert played.code == 0, played.output
    assert not played.result["changed"]
    models = json.loads(played.result["stdout"])["models"]
    assert [(model["id"], model["state"]) for model in models] == [("tiny", "missing")]


def test_it_runs_in_check_mode_too(tmp_path: Path) -> None:
    assert kit(tmp_path, "--check", argv=["plan", "--help"]).result["rc"] == 0


def test_a_mistake_in_models_yaml_is_told_before_any_host_is_reached(tmp_path: Path) -> None:
    played = plan(tmp_path, MODELS + "  - id: tiny\n    source: {path: /nowhere/other.gguf}\n")
    assert played.code != 0
    assert "tiny" in played.output
    assert "Nothing was changed." in played.output


def test_what_the_program_says_is_the_error(tmp_path: Path) -> None:
    played = kit(tmp_path, argv=["no-such-command"])
    assert played.code != 0
    assert "invalid choice" in played.output


def test_it_is_installed_once_and_runs_by_itself(tmp_path: Path) -> None:
    program = tmp_path / "llamakit"
    assert kit(tmp_path, "--check", dest=str(program)).result["changed"]
    assert not program.exists()
    assert kit(tmp_path, dest=str(program)).result["changed"]
    assert not kit(tmp_path, dest=str(program)).result["changed"]
    said = subprocess.run([program, "plan", "--help"], capture_output=True, text=True, check=True)
    assert "--models-dir" in said.stdout
