"""Several models at once: what can be had is fetched, and all that can't is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llamakit.cli import main
from support.models import script_model


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Three models that are listed; the file of the one in the middle is there."""
    models = [{"id": name, "source": {"path": f"{name}.gguf"}} for name in ("one", "two", "three")]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    script_model(tmp_path / "models", "two.gguf")
    return ["--models", str(tmp_path / "models.yaml"), "--models-dir", str(tmp_path / "models")]


def test_add_tells_every_model_that_is_missing(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "--all", *arguments]) != 0
    told = capsys.readouterr().err
    assert "one.gguf is not there" in told
    assert "two: present" in told
    assert "three.gguf is not there" in told


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_a_start_tells_what_does_not_run(
    mode: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mode.json").write_text(json.dumps({"mode": mode, "model": "two"}))
    prefetch = ["prefetch", *arguments, "--routes", str(tmp_path / "none")]
    status = main([*prefetch, "--state-dir", str(tmp_path)])
    told = capsys.readouterr().err
    if mode == "single":
        assert status == 0
        assert told.startswith("Not run: one (missing), three (missing); single runs ")
        assert len(told.splitlines()) == 1
    else:
        assert status != 0
        assert "one.gguf is not there" in told
        assert "three.gguf is not there" in told
