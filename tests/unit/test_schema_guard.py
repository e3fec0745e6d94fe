"""Schemas that llama_cpp.server can't keep are refused, and told why."""

from typing import Any

import pytest

from llamakit_proxy.errors import ApiError
from llamakit_proxy.schema_guard import check


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


BAD: list[Any] = [
    None,
    [],
    "object",
    {"type": "string", "pattern": "^\\d{3}$"},
    {"type": "string", "pattern": "[a-z]+"},
    {"type": "string", "pattern": "^(a+)+$"},
    {"type": "string", "pattern": '^"$'},
    {"type": "string", "pattern": "^a{1000}$"},
    {"type": "string", "pattern": "^[^a-z]{1,3}$"},
    {"type": "string", "pattern": "^[A-z]+$"},
    {"type": "string", "pattern": "^[z-a]$"},
    {"type": "string", "pattern": "^[a-c9-0]{1,3}$"},
    {"type": "string", "pattern": "^a{5,2}$"},
    {"type": "string", "pattern": "^[ -z]+$"},
    {"type": "string", "maxLength": 1200},
    {"type": "string", "minLength": -1},
    {"type": "string", "minLength": 5, "maxLength": 3},
    {"type": "string", "maxLength": 1.5},
    {"type": "string", "maxLength": True},
    {"type": "array", "items": {}, "maxItems": 3000},
    {"type": "array", "items": {}, "minItems": 10**9},
    {"type": "array", "prefixItems": []},
    {"prefixItems": [{}], "minItems": 2},
    {"prefixItems": [{}, {}], "maxItems": 1},
    {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
    {"type": "string", "format": "date", "minLength": 12},
    {"anyOf": [{"type": "object"}], "required": ["a"]},
    {"anyOf": [{"type": "string"}], "oneOf": [{"type": "string"}]},
    {"allOf": [{"type": "object"}], "additionalProperties": False},
    {"$ref": "#/$defs/a", "minLength": 3, "$defs": {"a": {"type": "string"}}},
    {"type": "object", "properties": {'a"b': {}}},
    {"type": "object", "properties": {"a\\b": {}}},
    {"type": "object", "properties": {"": {}}},
    {"type": "object", "properties": {"😀": {}}},
    {"type": "object", "properties": []},
    {"type": "object", "properties": {"a": 3}},
    {"type": "object", "required": ["a"]},
    {"enum": []},
    {"enum": ['"']},
    {"enum": ["\u0000"]},
    {"enum": [{}]},
    {"enum": ["x" * 1001]},
    {"const": "a\nb"},
    {"type": "float"},
    {"type": 3},
    {"type": [3]},
    {"anyOf": []},
    {"anyOf": {}},
    {"not": {"type": "string"}},
    {"if": {}, "then": {}},
    {"patternProperties": {"a": {}}},
    {"allOf": [{"type": "object"}, {"type": "object"}]},
    {"$ref": "#"},
    {"$ref": "#/properties/a", "properties": {"a": {}}},
    {"$ref": "https://example.com/schema.json"},
    {"$ref": "file:///etc/passwd"},
    {"$ref": "#/$defs/missing", "$defs": {}},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/b"}]},
                  "b": {"anyOf": [{"$ref": "#/$defs/a"}]}},
    },
    nested(40),
    {"type": "object", "properties": {f"p{i}": {} for i in range(3000)}},
]  # fmt: skip


@pytest.mark.parametrize("schema", BAD)
def test_bad_schemas(schema: Any) -> None:
    with pytest.raises(ApiError) as caught:
        check(schema, "schema")
    assert caught.value.status == 400
    assert caught.value.code == "unsupported_schema"
    assert len(caught.value.message) < 400


def test_definitions_that_lead_from_one_to_the_next() -> None:
    definitions: dict[str, Any] = {
        f"d{i}": {"type": "object", "properties": {"next": {"$ref": f"#/$defs/d{i + 1}"}}}
        for i in range(198)
    }
    definitions["d198"] = {"type": "string", "maxLength": 7}
    checked = check({"$ref": "#/$defs/d0", "$defs": definitions}, "schema")
    assert len(checked["$defs"]) == 199
    assert {"type": "string", "minLength": 0, "maxLength": 7} in checked["$defs"].values()


def test_what_stands_beside_without_a_say() -> None:
    """As pydantic writes references, choices and tuples."""
    definitions = {"a": {"type": "string"}}
    described = {"description": "x", "title": "y", "default": None}
    for schema in (
        {"$ref": "#/$defs/a", **described},
        {"allOf": [{"$ref": "#/$defs/a"}], **described},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], **described},
        {"oneOf": [{"$ref": "#/$defs/a"}], "discriminator": {"propertyName": "kind"}},
        {"type": "object", "anyOf": [{"type": "object"}]},
        {"type": "array", "prefixItems": [{}, {}], "items": False, "minItems": 2, "maxItems": 2},
        {"type": "string", "format": "uri", "minLength": 1, "maxLength": 99},
    ):
        assert check({"type": "object", "properties": {"p": schema}, "$defs": definitions}, "x")
