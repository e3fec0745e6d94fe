"""The plan: which models run, where, and with what."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamakit.cli import main
from llamakit.config.entries import parse_document
from llamakit.config.files import load_config
from llamakit.config.problems import ConfigError
from llamakit.models.plan import build_plan
from llamakit.models.plan_options import PlanOptions
from llamakit.smoke import stand_in
from support.models import (
    embedding_model,
    header_alone,
    random_model,
    script_model,
    sharded_model,
    tools_model,
)


class Place:
    """A folder with models.yaml, proxy_routes.yaml and a models folder."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "models.yaml"
        self.routes = folder / "proxy_routes.yaml"
        self.models = folder / "models"
        self.models.mkdir()

    def write(self, *models: dict[str, Any], **more: Any) -> None:
        self.config.write_text(yaml.safe_dump({"models": list(models), **more}))

    def write_routes(self, *models: dict[str, Any]) -> None:
        self.routes.write_text(yaml.safe_dump({"models": list(models)}))

    def plan(self, **more: Any) -> dict[str, Any]:
        config = load_config(self.config, self.routes)
        # As on a host, where the plan is made of what the controller read.
        carried = parse_document(json.dumps(config.document()))
        assert carried == config
        options = PlanOptions(self.models, self.models.parent / "smoke", **more)
        plan = build_plan(carried, options)
        json.dumps(plan)
        return plan


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.write(entry("first", aliases=["First.gguf"]), entry("second"))
    return place


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "source": {"hf": "o/n", "file": f"{name}.gguf"}, **more}


def running(plan: dict[str, Any]) -> list[str]:
    return [model["id"] for model in plan["models"] if model["running"]]


def model_of(plan: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(model for model in plan["models"] if model["id"] == name)
    return found


def test_single_mode_runs_the_first_that_is_there(place: Place) -> None:
    assert running(place.plan()) == ["first"]
    script_model(place.models, "second.gguf")
    plan = place.plan()
    assert (running(plan), plan["selected"], plan["port"]) == (["second"], "second", 8011)
    assert running(place.plan(model="First.gguf")) == ["first"]
    assert running(place.plan(model="1")) == ["first"]


def test_multi_mode_runs_all_and_fetches_the_missing(place: Place) -> None:
    script_model(place.models, "second.gguf")
    sharded_model(place.models / "big", "big")
    random_model(place.models, "Some Random.gguf")
    plan = place.plan(mode="multi")
    assert running(plan) == ["first", "second", "big", "some-random"]
    assert running(place.plan(mode="multi", allow_smoke=True)) == ["second", "big", "some-random"]
    assert [model["port"] for model in plan["models"]] == [8010, 8011, 8012, 8013]
    big = model_of(plan, "big")
    assert big["aliases"] == ["big-00001-of-00003.gguf"]
    assert len(big["files"]) == 3
    assert big["path"] == str(place.models / "big" / "big-00001-of-00003.gguf")
    assert model_of(plan, "some-random")["aliases"] == ["Some Random.gguf"]


def test_the_smoke_model_stands_in_only_when_nothing_is_there(place: Place) -> None:
    plan = place.plan(allow_smoke=True)
    assert running(plan) == ["llamakit-smoke"]
    smoke = model_of(plan, "llamakit-smoke")
    assert smoke["stand_in"]
    assert smoke["state"] == "present"
    assert smoke["port"] == 8010
    assert smoke["aliases"] == ["first", "First.gguf"]
    (route,) = plan["routes"]["models"]
    assert route["owned_by"] == "llamakit-smoke"
    assert place.plan(allow_smoke=True) == plan
    assert model_of(place.plan(allow_smoke=True, model="2"), "llamakit-smoke")["port"] == 8011
    script_model(place.models, "second.gguf")
    assert running(place.plan(allow_smoke=True, model="llamakit-smoke")) == ["second"]


def smoke_path(place: Place) -> Path:
    return Path(model_of(place.plan(allow_smoke=True), "llamakit-smoke")["path"])


def test_a_later_release_runs_its_own_smoke_model(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = smoke_path(place)
    content = earlier.read_bytes()
    package = tmp_path / "later" / "smoke"
    shutil.copytree(str(stand_in.PACKAGE), package)
    with (package / "model.py").open("a") as source:
        source.write("# another layout")
    monkeypatch.setattr(stand_in, "PACKAGE", package)
    later = smoke_path(place)
    assert later != earlier, "the path is part of what the service is restarted for"
    assert later.exists()
    assert earlier.read_bytes() == content, "a server still runs from it"


def test_a_damaged_smoke_model_is_made_anew(place: Place) -> None:
    path = smoke_path(place)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert smoke_path(place) == path
    assert path.read_bytes() == content


def test_planning_with_a_smoke_model_that_is_there_imports_nothing_slow(place: Place) -> None:
    smoke_path(place)
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from llamakit.config.files import load_config\n"
        "from llamakit.models.plan import build_plan\n"
        "from llamakit.models.plan_options import PlanOptions\n"
        "models, routes, *folders = map(Path, sys.argv[1:])\n"
        "build_plan(load_config(models, routes), PlanOptions(*folders, allow_smoke=True))\n"
        "assert 'llamakit.smoke.model' not in sys.modules\n"
    )
    where = [place.config, place.routes, place.models, place.models.parent / "smoke"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, *where], check=True, env=environment)


def test_the_smoke_model_stands_in_for_an_empty_list(place: Place) -> None:
    place.write()
    with pytest.raises(ConfigError, match="no model"):
        place.plan()
    assert running(place.plan(allow_smoke=True)) == ["llamakit-smoke"]


def test_an_unknown_model_is_told_with_the_nearest_name(place: Place) -> None:
    with pytest.raises(ConfigError, match="did you mean 'second'"):
        place.plan(model="secnod")
    for number in ("0", "3", "99"):
        with pytest.raises(ConfigError, match="list them with"):
            place.plan(model=number)


def test_what_was_selected_last_counts_while_it_exists(place: Place) -> None:
    assert running(place.plan(remembered="second")) == ["second"]
    assert running(place.plan(remembered="gone")) == ["first"]
    assert running(place.plan(remembered="second", model="first")) == ["first"]


def test_a_half_copied_file_moves_nobodys_port(place: Place) -> None:
    place.models.joinpath("zebra.gguf").write_bytes(script_model(place.models).read_bytes())
    before = model_of(place.plan(), "zebra")["port"]
    place.models.joinpath("half.gguf").write_bytes(b"GGUF")
    assert model_of(place.plan(), "zebra")["port"] == before


def test_a_route_has_what_the_proxy_needs(place: Place) -> None:
    script_model(place.models, "first.gguf")
    (route,) = place.plan(gpu_layers=0)["routes"]["models"]
    assert route.pop("created") > 1_700_000_000
    assert route == {
        "id": "first",
        "aliases": ["First.gguf"],
        "owned_by": "llamakit",
        "kind": "chat",
        "n_ctx": 4096,
        "logprobs": False,
        "tools": "none",
        "backends": [
            {
                "url": "http://127.0.0.1:8010",
                "api_key_secret": "llama_api_key",
                "capacity": 1,
                "engine": "llama_cpp_python",
            }
        ],
    }


def test_the_settings_are_safe_and_the_users_win(place: Place) -> None:
    script_model(place.models, "first.gguf")
    place.write(entry("first", n_gpu_layers="auto", n_threads=3, logits_all=True, n_ctx=0))
    model = place.plan(gpu_layers=-1)["models"][0]
    assert model["server"] == {"host": "127.0.0.1", "port": 8010, "interrupt_requests": False}
    assert model["settings"] == {
        "model": str(place.models / "first.gguf"),
        "model_alias": "first",
        "n_ctx": 8192,
        "n_gpu_layers": -1,
        "logits_all": True,
        "use_mlock": False,
        "verbose": False,
        "flash_attn": True,
        "n_threads": 3,
    }
    assert model["memory_bytes"] > 150_000_000
    place.write(entry("first", n_gpu_layers=7, n_ctx=512))
    settings = place.plan(gpu_layers=-1)["models"][0]["settings"]
    assert (settings["n_gpu_layers"], settings["n_ctx"]) == (7, 512)


def test_an_embedding_model_is_known_by_its_file(place: Place) -> None:
    embedding_model(place.models)
    model = model_of(place.plan(model="embed"), "embed")
    assert model["kind"] == "embedding"
    settings = model["settings"]
    assert settings["embedding"]
    assert settings["n_batch"] == settings["n_ubatch"] == settings["n_ctx"] == 2048


def test_ports_are_stable_and_collide_with_nothing(place: Place) -> None:
    place.write(entry("a"), entry("b", port=8010), entry("c"), entry("d", port=9000))
    plan = place.plan(reserved_ports=(8011, 5433))
    assert [model["port"] for model in plan["models"]] == [8012, 8010, 8013, 9000]
    with pytest.raises(ConfigError, match="port 9000, which llamakit uses"):
        place.plan(reserved_ports=(9000,))


def test_damaged_and_incomplete_files_are_seen(place: Place) -> None:
    place.write(entry("first"))
    whole = script_model(place.models, "first.gguf")
    assert model_of(place.plan(), "first")["state"] == "present"
    content = whole.read_bytes()
    for damage, said in (
        (content[:-100], "copied or downloaded incompletely"),
        (content[:100], "truncated"),
        (b"", "truncated"),
        (b"<html>", "not a GGUF"),
        (b"GGUF" + b"\xff" * 100, "version"),
        (content[:8] + b"\xff" * 8 + content[16:], "damaged"),
    ):
        whole.write_bytes(damage)
        model = model_of(place.plan(), "first")
        assert model["state"] == "invalid"
        assert said in model["state_detail"]
    whole.unlink()
    (place.models / "first.gguf.part").write_bytes(b"x" * 2_000_000)
    assert model_of(place.plan(), "first")["state"] == "partial"


def test_every_shard_is_checked(place: Place) -> None:
    first = sharded_model(place.models / "big", "big")
    second = first.with_name("big-00002-of-00003.gguf")
    third = first.with_name("big-00003-of-00003.gguf")
    content = second.read_bytes()
    second.write_bytes(content[:-10])
    assert "big-00002" in model_of(place.plan(), "big")["state_detail"]
    shutil.copy(third, second)
    assert "renamed" in model_of(place.plan(), "big")["state_detail"]
    second.unlink()
    assert model_of(place.plan(), "big")["state"] == "partial"
    second.write_bytes(content)
    assert model_of(place.plan(), "big")["state"] == "present"
    first.unlink()
    assert model_of(place.plan(), "big")["state"] == "partial"


def test_found_models_never_take_a_listed_ones_name(place: Place) -> None:
    other = script_model(place.models / "elsewhere", "First.gguf")
    assert other.exists()
    plan = place.plan(model="first")
    assert [model["id"] for model in plan["models"]] == ["first", "second", "first-2"]
    assert model_of(plan, "first-2")["aliases"] == []


def test_what_is_no_model_is_left_alone(place: Place) -> None:
    script_model(place.models, "second.gguf")
    for name in ("x.gguf.part", "notes.txt", ".hidden.gguf", "mmproj-vision.gguf"):
        (place.models / name).write_bytes(b"x")
    (place.models / "folder.gguf").mkdir()
    assert len(place.plan()["models"]) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("general.type", "adapter"), ("general.type", "imatrix"), ("general.architecture", "clip")],
)
def test_what_only_goes_with_a_model_is_none(place: Place, key: str, value: str) -> None:
    header_alone(place.models / "a-part.gguf", **{key: value})
    assert [model["id"] for model in place.plan()["models"]] == ["first", "second"]


def test_ports_that_there_are_not_are_told(place: Place) -> None:
    with pytest.raises(ConfigError, match="port 65536, counted from 65535"):
        place.plan(port_base=65535)


def test_shards_are_found_however_their_names_are_spelt(place: Place) -> None:
    sharded_model(place.models, "first")
    for path in place.models.glob("first-*"):
        path.rename(path.with_name(path.name.replace("-of-", "-OF-").replace(".gguf", ".GGUF")))
    place.write({"id": "s", "source": {"path": "first-00001-OF-00003.GGUF"}})
    assert place.plan()["models"][0]["state"] == "present"


def test_a_sharded_model_copied_beside_the_others_is_found(place: Place) -> None:
    sharded_model(place.models, "first")
    place.write({"id": "s", "source": {"hf": "o/n", "file": "q/first-00001-of-00003.gguf"}})
    plan = place.plan()
    assert [model["id"] for model in plan["models"]] == ["s"]
    assert plan["models"][0]["state"] == "present"


def test_tools_are_known_by_the_file_and_can_be_overridden(place: Place) -> None:
    tools_model(place.models, "first.gguf")

    def route() -> Any:
        return place.plan()["routes"]["models"][0]["tools"]

    assert route() == "hermes"
    place.write(entry("first", tools="llama3"))
    assert route() == "llama3"
    place.write_routes({"id": "first", "tools": "none"})
    assert route() == "none"


def test_routes_can_be_overridden_and_added(place: Place) -> None:
    script_model(place.models, "first.gguf")
    place.write_routes(
        {"id": "first", "aliases": ["gpt-4"], "max_tokens": 64},
        {"id": "far", "n_ctx": 8192, "backends": [{"url": "http://gpu01:8010/"}]},
        {"id": "second", "max_tokens": 1},
    )
    first, far = place.plan()["routes"]["models"]
    assert first["aliases"] == ["First.gguf", "gpt-4"]
    assert first["max_tokens"] == 64
    assert first["backends"][0]["url"] == "http://127.0.0.1:8010"
    assert far["backends"] == [
        {
            "url": "http://gpu01:8010",
            "api_key_secret": None,
            "capacity": 1,
            "engine": "llama_cpp_python",
        }
    ]


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([{"id": "far", "backends": [{"url": "gpu01:8010"}]}], "http://HOST:PORT"),
        ([{"id": "far", "backend": []}], "did you mean 'backends'"),
        ([{"id": "far"}, {"id": "far"}], "a second time"),
        ([{"id": "frist", "max_tokens": 5}], "did you mean 'first'"),
        ([{"id": "first.gguf"}], "did you mean 'first'"),
        ([{"id": "far", "aliases": ["FIRST"], "backends": [{"url": "http://a:1"}]}], "'FIRST'"),
    ],
)
def test_mistakes_in_the_routes_are_told(
    place: Place, routes: list[dict[str, Any]], expected: str
) -> None:
    place.write_routes(*routes)
    with pytest.raises(ConfigError, match=expected):
        place.plan()


def test_the_command_line_tells_mistakes_on_stderr(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.config.write_text("models:\n  - {id: a}\n")
    arguments = ["--models", str(place.config), "--models-dir", str(place.models)]
    for command in (["plan"], ["models"], ["select", "--model", "a"], ["fetch"], ["check-files"]):
        assert main([command[0], *arguments, *command[1:]]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert "line 2" in output.err


def test_the_selected_model_has_a_star_and_is_the_default(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script_model(place.models, "second.gguf")
    state = place.models.parent
    arguments = ["--models", str(place.config), "--models-dir", str(place.models)]
    arguments += ["--state-dir", str(state)]

    def answer_nothing() -> tuple[str, str]:
        """What is chosen with the return key alone, on a terminal; and what the terminal showed."""
        ours, theirs = os.openpty()
        os.write(ours, b"\n")
        with os.fdopen(ours), os.fdopen(theirs) as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", terminal)
            assert main(["select", *arguments]) == 0
        output = capsys.readouterr()
        return output.out.strip(), output.err

    chosen, shown = answer_nothing()
    assert chosen == "second", "the first has no file"
    assert "default 2" in shown
    assert "*" not in shown
    (state / "mode.json").write_text('{"mode": "single", "model": "first"}')
    assert answer_nothing()[0] == "first"
    assert main(["models", *arguments]) == 0
    assert "  1* first " in capsys.readouterr().out
    assert main(["models", "--json", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["selected"] for row in rows] == [True, False]


def test_models_lists_and_select_resolves(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    script_model(place.models, "second.gguf")
    arguments = ["--models", str(place.config), "--models-dir", str(place.models)]
    assert main(["models", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["1", "first", "chat", "1", "-", "missing"]
    assert main(["models", "--json", *arguments]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["first", "second"]
    for name in ("2", "second", "SECOND"):
        assert main(["select", *arguments, "--model", name]) == 0
        assert capsys.readouterr().out == "second\n"
    assert main(["select", *arguments]) == 2
    assert "no terminal" in capsys.readouterr().err
