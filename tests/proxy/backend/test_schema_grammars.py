"""Schemas that pass must make a grammar that llama.cpp can parse, and that means the same."""

import json
from typing import Any

import llama_cpp
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from llama_cpp.llama_grammar import json_schema_to_gbnf

from llamakit_proxy.schema_guard import check
from support.models import script_model


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = script_model(tmp_path_factory.mktemp("model"))
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    yield model._model.vocab
    model.close()


def grammar(schema: dict[str, Any]) -> str:
    return str(json_schema_to_gbnf(json.dumps(check(schema, "schema"))))


def parses(text: str, vocabulary: Any) -> bool:
    sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
    if sampler:
        llama_cpp.llama_sampler_free(sampler)
    return bool(sampler)


TREE = {
    "$defs": {
        "name": {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/name"}, {"type": "null"}]},
                "value": {"type": "integer"},
            },
            "required": ["value"],
        }
    },
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/name"}, "other": {"type": "string"}},
    "required": ["name"],
}

GOOD: list[dict[str, Any]] = [
    {"type": "object"},
    {},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {}, "b": {"description": "anything"}}},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    TREE,
    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1000},
    {"type": "array"},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]},
    {"type": "string", "minLength": 3, "maxLength": 1000},
    {"type": "string", "pattern": "^[0-9]{3}-[A-Z]+$"},
    {"type": "string", "pattern": "^[A-Za-z]*x?$"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "email"},
    {"type": ["string", "null"]},
    {"type": ["object", "null"], "properties": {"a": {"type": "boolean"}}},
    {"type": ["string", "null"], "enum": ["a", None]},
    {"enum": ["red", "Größe", "with space", 1, 2.5, True, None]},
    {"const": "x"},
    {"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}]},
    {"$ref": "#/$defs/name", "$defs": TREE["$defs"]},
    {"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": {"type": "integer"}}},
    {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(100)}},
    {"properties": {"ключ": {"items": {"type": "boolean"}}}, "title": "T", "default": {}},
]


@pytest.mark.parametrize("schema", GOOD)
def test_good_schemas(schema: dict[str, Any], vocabulary: Any) -> None:
    assert parses(grammar(schema), vocabulary)


def test_a_definition_is_not_mistaken_for_a_property() -> None:
    """Both are called "name" here, and the converter knows rules only by such names."""
    text = grammar(TREE)
    rules = dict(line.split(" ::= ", 1) for line in text.splitlines())
    assert "definition-0-of-schema" in rules["name"]
    assert rules["name"] != rules["definition-0-of-schema"]


NAMES = st.text(st.sampled_from("ab-_ é"), min_size=1, max_size=4)
SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {},
            {"type": "string"},
            {"type": "string", "maxLength": 5},
            {"type": "string", "minLength": 2, "maxLength": 9},
            {"type": "integer"},
            {"type": "null"},
            {"type": "boolean"},
            {"enum": ["a", "é", 3]},
            {"type": "string", "pattern": "^[a-c]{2}$"},
            {"$ref": "#/$defs/shared"},
            {"type": ["number", "null"]},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda one: {"type": "array", "items": one, "maxItems": 3}, inner),
        st.builds(lambda one: {"type": "array", "prefixItems": one}, st.lists(inner, min_size=1)),
        st.builds(lambda one: {"anyOf": one}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda properties, some: {
                "type": "object",
                "properties": properties,
                "required": sorted(properties)[: len(properties) // 2] if some else [],
            },
            st.dictionaries(NAMES, inner, max_size=4),
            st.booleans(),
        ),
    ),
    max_leaves=8,
)


@given(schema=SCHEMAS)
@hypothesis_settings(deadline=None, max_examples=150)
def test_whatever_passes_parses(vocabulary: Any, schema: dict[str, Any]) -> None:
    shared = {"type": "object", "properties": {"again": {"$ref": "#/$defs/shared"}}}
    assert parses(grammar({**schema, "$defs": {"shared": shared}}), vocabulary)
