"""models.yaml: what is accepted, and that every mistake is told with line, value and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llamakit.config.models_file import MODEL_KEYS, load_models
from llamakit.config.problems import ConfigError
from llamakit.config.routes_file import load_overrides
from llamakit.config.schema_check import load_schema
from llamakit.engines import engines

ROOT = Path(__file__).parents[3]
SHA = "0" * 64


def load(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    return load_models(file)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    shown = str(caught.value)
    assert len(shown.splitlines()) <= 30, "more than a screen"
    return shown


def test_the_shipped_files_are_valid() -> None:
    (tiny,) = load_models(ROOT / "config" / "models.yaml")
    assert tiny.id == "tinyllama-1.1b-chat"
    assert tiny.aliases == ("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",)
    assert tiny.source.sizes == (668788096,)
    assert load_overrides(ROOT / "config" / "proxy_routes.yaml") == []


@pytest.mark.parametrize("name", ["models", "proxy_routes"])
def test_the_schemas_are_valid_and_where_editors_look_for_them(name: str) -> None:
    schema = json.loads((ROOT / "config" / f"{name}.schema.json").read_text())
    assert schema == load_schema(f"{name}.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_schema_knows_the_engines_settings_and_no_others() -> None:
    schema = load_schema("models.schema.json")
    settings: dict[str, Any] = {}
    for engine in engines().values():
        settings |= engine.fields
    model = schema["$defs"]["model"]["properties"]
    assert {key: model[key] for key in settings} == settings
    assert set(model) == set(settings) | MODEL_KEYS
    assert schema["$defs"]["model"]["properties"]["engine"] == {"enum": sorted(engines())}
    defaults = schema["properties"]["defaults"]["properties"]
    assert set(defaults) == set(settings) | {"engine", "max_tokens"}


def test_defaults_are_under_every_model_and_can_be_overridden(tmp_path: Path) -> None:
    first, second = load(
        tmp_path,
        "defaults: {n_ctx: 512, n_batch: 64, max_tokens: 100}\n"
        "models:\n"
        "  - {id: a, source: {path: a.gguf}}\n"
        "  - {id: b, source: {path: b.gguf}, n_ctx: 1024}\n",
    )
    assert first.settings == {"n_ctx": 512, "n_batch": 64}
    assert second.settings == {"n_ctx": 1024, "n_batch": 64}
    assert second.max_tokens == 100


def test_defaults_may_be_empty(tmp_path: Path) -> None:
    (model,) = load(tmp_path, "defaults:\nmodels:\n  - {id: a, source: {path: a.gguf}}\n")
    assert model.settings == {}


def test_two_models_may_share_a_file_but_not_its_name(tmp_path: Path) -> None:
    one = "models:\n  - {id: a, source: {hf: o/n, file: q/x.gguf}}\n"
    same = "  - {id: b, source: {hf: o/n, file: q/x.gguf}, n_ctx: 512}\n"
    assert len(load(tmp_path, one + same)) == 2
    for other in (
        "{hf: o/n, file: r/x.gguf}",
        "{hf: o/m, file: x.gguf}",
        "{url: 'http://h/x.gguf'}",
    ):
        said = problems(tmp_path, f"{one}  - {{id: b, source: {other}}}\n")
        assert "x.gguf, which the model 'a' gets from elsewhere" in said


def test_an_address_that_is_none(tmp_path: Path) -> None:
    said = problems(tmp_path, "models:\n  - {id: a, source: {url: 'http://[x/y.gguf'}}\n")
    assert "an address that is none" in said


def test_an_empty_list_is_fine(tmp_path: Path) -> None:
    assert load(tmp_path, "models:\n") == []


def test_a_sharded_model_has_one_checksum_a_file(tmp_path: Path) -> None:
    (model,) = load(
        tmp_path,
        "models:\n  - id: big\n    source:\n      hf: o/n\n      file: q/x-00001-of-00002.gguf\n"
        f"      sha256: ['{SHA}', null]\n",
    )
    assert model.source.names == ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]
    assert model.source.sha256 == (SHA, None)
    assert model.source.sizes == (None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models:\n  - id: a\n   source: x\n", ["line 3", "valid YAML"]),
        ("models:\n  - {id: a\n\n# end\n", ["line 2", "the { that opens here is never closed"]),
        (
            "models:\n  - {id: a\n  - id: b\n",
            ["line 2", "not closed before line 3", "} at its end"],
        ),
        ("models: [oops", ["line 1", "the [ that opens here"]),
        ("models:\n  - id: 'a\n", ["line 2", "the quote that opens here is never closed"]),
        ("models:\n  - id: a\n - id: b\n", ["line 3", "indented less or more", "from line 1"]),
        ("models:\n  - id: a\n     port: 1\n", ["line 3", "indented more than it may be"]),
        ("models: a: b\n", ["line 1", "a second ':'"]),
        ("models: {a: b}}\n", ["line 1", "valid YAML"]),
        ("models:\n\t- id: a\n", ["line 2", "valid YAML"]),
        ("models: [\n", ["valid YAML"]),
        ("models: &a [*a]\n", ["valid YAML"]),
        ("models:\n  - {id: a, source: {path: x.gguf}, 7: 8}\n", ["unknown key '7'"]),
        ("models: \x07\n", ["valid YAML"]),
        ("models:\n  - {id: 2026-13-45, source: {path: x.gguf}}\n", ["odd value"]),
        ("- a\n- b\n", ["a mapping of keys to values"]),
        ("", ["no 'models'"]),
        ("models:\n  - {id: a, id: b, source: {path: x.gguf}}\n", ["a second time"]),
        (
            "models:\n  - id: a\n    source: {path: x.gguf}\n    n_ctxx: 512\n",
            ["line 4", "models[0].n_ctxx", "did you mean 'n_ctx'?"],
        ),
        (
            "models:\n  - id: a\n    source: {path: x.gguf}\n    n_ctx: 1000\n",
            ["line 4", "1000", "multiple of 256", "use 768 or 1024"],
        ),
        (
            "models:\n  - id: a\n    source: {path: x.gguf}\n    interrupt_requests: true\n",
            ["line 4", "cut the others' streams", "remove this line"],
        ),
        ("defaults: {cache: true}\nmodels:\n", ["line 1", "'cache'", "pickles"]),
        ("models:\n  - {id: a, source: {path: x.gguf}, n_gpu_layers: all}\n", ["auto", "'all'"]),
        ("models:\n  - {id: A B, source: {path: x.gguf}}\n", ["'A B'", "lower case"]),
        ("models:\n  - {id: 7, source: {path: x.gguf}}\n", ["7", "quotes"]),
        ("models:\n  - {id: a}\n", ["no 'source'"]),
        ("models:\n  - {id: a, source: {}}\n", ["exactly one of hf:"]),
        ("models:\n  - {id: a, source: {hf: o/n, path: x.gguf}}\n", ["hf and path"]),
        ("models:\n  - {id: a, source: {hf: o/n}}\n", ["hf: without file:"]),
        ("models:\n  - {id: a, source: {hf: o/n, file: x.bin}}\n", ["ends in .gguf"]),
        ("models:\n  - {id: a, source: {hf: o/n, file: ../x.gguf}}\n", ["../x.gguf"]),
        ("models:\n  - {id: a, source: {url: 'ftp://h/x.gguf'}}\n", ["http"]),
        ("models:\n  - {id: a, source: {url: 'https://u:p@h/x.gguf'}}\n", ["without a password"]),
        ("models:\n  - {id: a, source: {path: x.gguf, revision: b}}\n", ["revision: beside path:"]),
        (
            "models:\n  - {id: a, source: {path: x-00002-of-00003.gguf}}\n",
            ["shard 2 of 3", "x-00001-of-00003.gguf"],
        ),
        ("models:\n  - {id: a, source: {path: x.gguf, sha256: abc}}\n", ["64 lower case"]),
        (
            "models:\n  - {id: a, source: {path: x-00001-of-00003.gguf, size: [1, 2]}}\n",
            ["2 for 3 files"],
        ),
        (
            "models:\n  - {id: a, source: {path: x.gguf}}\n  - {id: a, source: {path: y.gguf}}\n",
            ["line 3", "'a' a second time", "line 2"],
        ),
        (
            "models:\n  - {id: a, source: {path: x.gguf}}\n"
            "  - {id: b, aliases: [A], source: {path: y.gguf}}\n",
            ["line 3: models[1].aliases[0]", "'A' a second time"],
        ),
        (
            "models:\n  - {id: a, port: 8010, source: {path: x.gguf}}\n"
            "  - {id: b, port: 8010, source: {path: y.gguf}}\n",
            ["port 8010, which the model 'a' has"],
        ),
        ("models:\n  - {id: a, port: 80, source: {path: x.gguf}}\n", ["at least 1024"]),
        (
            "models:\n  - {id: a, kind: chat, embedding: true, source: {path: x.gguf}}\n",
            ["kind: chat with embedding: true"],
        ),
        ("models:\n  - {id: a, engine: vllm, source: {path: x.gguf}}\n", ["llama_cpp_python"]),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, expected: list[str]) -> None:
    shown = problems(tmp_path, text)
    for part in expected:
        assert part in shown, shown
    for label in ("found:", "expected:", "do:", "models.yaml"):
        assert label in shown


def test_all_mistakes_are_told_at_once_on_one_screen(tmp_path: Path) -> None:
    entries = "".join(f"  - {{id: M{i}, source: {{}}, n_ctx: 1}}\n" for i in range(20))
    shown = problems(tmp_path, "models:\n" + entries)
    assert "40 problems" in shown
    assert "and 34 more" in shown


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="git checkout"):
        load_models(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"models: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_models(tmp_path / "bad.yaml")
