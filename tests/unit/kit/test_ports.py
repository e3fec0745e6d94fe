"""The ports of models: who keeps one, and who gets which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamakit.cli import main
from llamakit.models.ports import assign_ports
from support.backend import free_port


class Deployment:
    """Plans as deployments make them: each knows what the one before remembered."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state, self._models, self._capsys = folder, folder / "models.yaml", capsys

    def run(self, *models: dict[str, Any], verb: str = "plan", options: str = "") -> dict[str, Any]:
        """What the command says of these models."""
        self._models.write_text(yaml.safe_dump({"models": list(models)}))
        arguments = ["--models", str(self._models), "--routes", str(self.state / "none")]
        arguments += ["--models-dir", str(self.state), "--state-dir", str(self.state)]
        assert main([verb, *arguments, *options.split()]) == 0
        said: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        plan = said if verb == "plan" else said["plan"]
        (self.state / "mode.json").write_text(json.dumps(plan["remember"]))
        return said

    def ports(self, *models: dict[str, Any], base: int = 8010) -> dict[str, int]:
        plan = self.run(*models, options=f"--mode multi --port-base {base}")
        return {model["id"]: model["port"] for model in plan["models"]}


@pytest.fixture
def deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Deployment:
    return Deployment(tmp_path, capsys)


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "source": {"hf": "o/n", "file": f"{name}.gguf"}, **more}


def test_ports_go_with_the_model_not_with_its_place() -> None:
    fixed = dict.fromkeys("abc")
    assert assign_ports(fixed, {}, 8010, [8011]) == {"a": 8010, "b": 8012, "c": 8013}
    kept = {"a": 8010, "b": 8011, "c": 8012}
    assert assign_ports({"c": None, "b": None}, kept, 8010, []) == {"c": 8012, "b": 8011}
    came = {"new": None, "c": None, "newer": None, "b": None}
    expected = {"new": 8010, "c": 8012, "newer": 8013, "b": 8011}
    assert assign_ports(came, kept, 8010, []) == expected
    # A port that is fixed for one, or taken by another service, is nobody's to keep.
    assert assign_ports({"a": None, "new": 8010}, kept, 8010, [8011]) == {"a": 8012, "new": 8010}
    assert assign_ports(fixed, kept, 8010, [8011]) == {"a": 8010, "b": 8013, "c": 8012}
    assert assign_ports(fixed, dict.fromkeys("abc", 8015), 8010, []) == {
        "a": 8015, "b": 8010, "c": 8011,
    }  # fmt: skip


def test_the_next_plan_knows_the_ports(deployment: Deployment) -> None:
    alpha, beta, gamma = entry("alpha"), entry("beta"), entry("gamma")
    assert deployment.ports(alpha, beta, gamma) == {"alpha": 8010, "beta": 8011, "gamma": 8012}
    assert deployment.ports(gamma, beta) == {"gamma": 8012, "beta": 8011}
    assert deployment.ports(gamma, beta, entry("new"))["new"] == 8010
    assert deployment.ports(gamma, beta, base=8020) == {"gamma": 8020, "beta": 8021}
    # A port that was fixed stays nobody's.
    assert deployment.ports(entry("gamma", port=9000), beta, base=8020)["gamma"] == 9000
    assert deployment.ports(gamma, beta, base=8020) == {"gamma": 8020, "beta": 8021}


def test_an_earlier_kit_remembered_no_ports(deployment: Deployment) -> None:
    (deployment.state / "mode.json").write_text('{"mode": "multi", "model": "beta"}')
    assert deployment.ports(entry("alpha"), entry("beta")) == {"alpha": 8010, "beta": 8011}


def test_a_selected_model_that_is_gone_is_told_before_anything_changes(
    deployment: Deployment,
) -> None:
    free = f"--port-base {free_port()}"
    before, after = (entry("alpha"), entry("beta")), (entry("alpha"), entry("better"))

    def told(options: str = "") -> list[str]:
        said = deployment.run(*after, verb="preflight", options=f"{free} {options}")
        return [text for text in said["warnings"] if "selected last" in text]

    deployment.run(*before, options=f"--model beta {free}")
    (warning,) = told()
    assert "beta" in warning
    assert "alpha is selected instead" in warning
    assert told() == []
    deployment.run(*before, options=f"--model beta {free}")
    assert told("--model better") == []
