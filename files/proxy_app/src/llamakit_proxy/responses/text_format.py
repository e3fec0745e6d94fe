"""The form a response's text shall have."""

from typing import Any

from llamakit_proxy.errors import invalid
from llamakit_proxy.validate.fields import describe
from llamakit_proxy.validate.messages import NAME, bad_name

_VERBOSITY = ("low", "medium", "high")


def read(text: dict[str, Any]) -> dict[str, Any]:
    """``text`` as the answer repeats it. Raises ApiError 400; the schema itself the chat checks."""
    for name, value in text.items():
        if name not in ("format", "verbosity") and value is not None:
            raise invalid("'text' may hold 'format' and 'verbosity'.", param="text")
    verbosity = text.get("verbosity")
    if verbosity is not None and verbosity not in _VERBOSITY:
        raise invalid(
            f"'text.verbosity' must be one of {', '.join(_VERBOSITY)}.", param="text.verbosity"
        )
    asked = text.get("format")
    return {
        "format": {"type": "text"} if asked is None else _format(asked),
        "verbosity": verbosity or "medium",
    }


def of_chat(text: dict[str, Any]) -> dict[str, Any]:
    """The ``response_format`` of a chat."""
    form = text["format"]
    if form["type"] != "json_schema":
        return {"type": form["type"]}
    return {"type": "json_schema", "json_schema": {"name": form["name"], "schema": form["schema"]}}


def _format(asked: Any) -> dict[str, Any]:
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind in ("text", "json_object"):
        return {"type": kind}
    if kind != "json_schema":
        raise invalid(
            "'text.format.type' must be text, json_object or json_schema.", param="text.format"
        )
    name, schema = asked.get("name"), asked.get("schema")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise bad_name("text.format.name")
    if not isinstance(schema, dict):
        raise invalid("'text.format.schema' must be an object.", param="text.format.schema")
    return {
        "type": "json_schema",
        "name": name,
        "description": _optional(asked, "description", str),
        "schema": schema,
        "strict": _optional(asked, "strict", bool),
    }


def _optional(asked: dict[str, Any], name: str, kind: type) -> Any:
    value = asked.get(name)
    if value is None or isinstance(value, kind):
        return value
    where = f"text.format.{name}"
    raise invalid(f"'{where}' can't be {describe(value)}.", param=where, code="invalid_type")
