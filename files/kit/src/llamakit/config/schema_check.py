"""Checks a YAML file against its JSON schema and tells every violation in plain words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jsonschema

from llamakit.config.problems import Problem, did_you_mean, shorten
from llamakit.config.yaml_source import YamlSource

TYPE_NAMES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of keys to values",
    "null": "nothing",
}


def load_schema(name: str) -> dict[str, Any]:
    """One of the package's schemas, for example ``models.schema.json``."""
    text = resources.files("llamakit.config").joinpath("schemas", name).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def schema_problems(source: YamlSource, schema: dict[str, Any]) -> list[Problem]:
    """Every violation of the schema, in the order of the file."""
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(
        validator.iter_errors(source.data), key=lambda error: list(map(str, error.path))
    )
    return [problem for error in errors for problem in _describe(source, error)]


def _describe(source: YamlSource, error: Any) -> Iterator[Problem]:
    path = list(error.absolute_path)
    expected = error.schema.get("description", "") if isinstance(error.schema, dict) else ""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in sorted(map(str, set(error.instance) - set(known))):
            suggestion = did_you_mean(key, known)
            yield Problem(
                source.where([*path, key]),
                f"an unknown key {key!r}",
                suggestion or f"one of: {', '.join(sorted(known)[:8])} …",
                "correct or remove this line",
            )
    elif error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        yield Problem(
            source.where(path),
            f"no {missing[0]!r}",
            f"the key {missing[0]!r} with a value",
            "add it",
        )
    else:
        yield Problem(
            source.where(path), shorten(error.instance), _expected(error, expected), _remedy(error)
        )


def _expected(error: Any, description: str) -> str:
    value = error.validator_value
    match error.validator:
        case "type":
            names = [value] if isinstance(value, str) else value
            rule = " or ".join(TYPE_NAMES[name] for name in names)
        case "enum":
            rule = "one of: " + ", ".join(map(str, value))
        case "minimum" | "exclusiveMinimum":
            rule = f"at least {value}"
        case "maximum":
            rule = f"at most {value}"
        case "minItems" | "minLength":
            rule = "not empty"
        case "oneOf" | "anyOf":
            return str(description) or "one of the forms in the documentation"
        case "multipleOf":
            rule = f"a multiple of {value}"
        case "pattern":
            return description or f"text like {value}"
        case _:
            rule = error.message
    return f"{rule} ({description})" if description else rule


def _remedy(error: Any) -> str:
    numeric = isinstance(error.instance, int | float) and not isinstance(error.instance, bool)
    if error.validator == "type" and error.validator_value == "string" and numeric:
        return "put the value in quotes"
    if error.validator == "multipleOf" and numeric:
        below = int(error.instance // error.validator_value * error.validator_value)
        return f"use {below or error.validator_value} or {below + error.validator_value}"
    return "correct this value"
