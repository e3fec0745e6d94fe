"""JSON schemas that are safe to hand to llama_cpp.server, which turns them into a grammar.

Its converter makes of some legal schemas a grammar that does not parse, which ends the process,
and silently drops others and then takes any JSON. So only a part of JSON Schema passes, and it is
rewritten to what the converter does right: one document from ``check``, or a 400 that names the
place. Numeric ranges and most formats are accepted and not enforced, as annotations would be.
"""

import re
from typing import Any

from .errors import ApiError, invalid

MAX_DEPTH = 32
MAX_SCHEMAS = 2000
MAX_DEFINITIONS = 200
MAX_REPEAT = 1000
MAX_ENUM = 1000
MAX_TEXT = 1000
MAX_SHOWN = 200

_PRIMITIVES = ("object", "array", "string", "number", "integer", "boolean", "null")
_DROPPED = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "example",
        "$schema",
        "$id",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "uniqueItems",
        "contentMediaType",
        "contentEncoding",
        "strict",
        "discriminator",
    }
)
_KNOWN = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "format",
        "pattern",
        "minLength",
        "maxLength",
    }
)
_ENFORCED_FORMATS = frozenset(
    ("date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5")
)
# No class may admit a quote, a backslash or a control character, for the answer would not be JSON
# then: hence no negation, and no range that leaves the capitals, the small letters or the digits.
_PATTERN = re.compile(
    r"\^(?:(?:\[(?:[A-Z]-[A-Z]|[a-z]-[a-z]|[0-9]-[0-9]|[A-Za-z0-9 _])+\]|[A-Za-z0-9 _:/@,-])"
    r"(?:\{\d{1,2}(?:,\d{1,2})?\}|[*+?])?)+\$"
)
_RANGE = re.compile(r"(\w)-(\w)(?=[^\[]*\])")
_COUNTS = re.compile(r"\{(\d+),(\d+)\}")
MAX_PATTERN = 200
_LOCAL = re.compile(r"#/(\$defs|definitions)/([^/~%]+)")


def check(schema: Any, where: str) -> dict[str, Any]:
    """The schema as the backend gets it. ``where`` is the field's path, for the ApiError 400."""
    if not isinstance(schema, dict):
        raise _refused(where, "must be an object")
    return _Checker(schema, where).document()


def _is_enforced(pattern: str) -> bool:
    """Whether the model server holds an answer to it. A class or a count that nothing fits leaves
    no token to go on with, which ends the server."""
    if len(pattern) > MAX_PATTERN or not _PATTERN.fullmatch(pattern):
        return False
    ranges = _RANGE.findall(pattern) + [
        (int(low), int(high)) for low, high in _COUNTS.findall(pattern)
    ]
    return all(low <= high for low, high in ranges)


def _refused(where: str, problem: str) -> ApiError:
    where = where if len(where) <= MAX_SHOWN else f"{where[:MAX_SHOWN]}…"
    return invalid(f"'{where}' {problem}.", param=where, code="unsupported_schema")


class _Checker:
    def __init__(self, root: dict[str, Any], where: str) -> None:
        self._root = root
        self._where = where
        self._count = 0
        self._names: dict[str, str] = {}
        """A definition's place to its new name. The converter takes the last part of a reference
        as the name of a grammar rule, where it would meet properties of the same name."""
        self._definitions: dict[str, dict[str, Any]] = {}
        """Rewritten definitions by new name."""
        self._waiting: list[tuple[str, Any, str]] = []
        """Those still to be rewritten: new name, schema and place. One may lead to the next 200
        times, which would be too deep for calls within calls."""
        self._finite: dict[str, bool] = {}

    def document(self) -> dict[str, Any]:
        schema = self._visit(self._root, self._where, 0)
        while self._waiting:
            new, definition, where = self._waiting.pop()
            self._definitions[new] = self._visit(definition, where, 1)
        for name in self._definitions:
            self._check_finite(name)
        while "$ref" in schema:
            # The converter does not look further than a reference at the top.
            schema = self._definitions[schema["$ref"].rsplit("/", 1)[1]]
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def _visit(self, schema: Any, where: str, depth: int) -> dict[str, Any]:
        """One schema, rewritten."""
        self._count += 1
        if depth > MAX_DEPTH or self._count > MAX_SCHEMAS:
            raise _refused(where, f"is nested deeper than {MAX_DEPTH} or too large")
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise _refused(where, "must be an object")
        for keyword in schema:
            if keyword in _KNOWN or keyword in _DROPPED:
                continue
            if keyword in ("$defs", "definitions") and depth == 0:
                continue
            shown = keyword if keyword.isidentifier() and len(keyword) < 40 else "keyword"
            raise _refused(where, f"uses the {shown!r} that the model server can't enforce")
        if "$ref" in schema:
            self._alone(schema, "$ref", where)
            return {"$ref": self._reference(schema["$ref"], where)}
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                self._alone(schema, keyword, where)
                return {"anyOf": self._alternatives(schema[keyword], f"{where}.{keyword}", depth)}
        if "allOf" in schema:
            return self._all_of(schema, where, depth)
        if "const" in schema or "enum" in schema:
            return {"enum": self._values(schema, where)}
        return self._typed(schema, where, depth)

    @staticmethod
    def _alone(schema: dict[str, Any], keyword: str, where: str) -> None:
        """The converter looks at the keyword, and at nothing that stands beside it."""
        beside = (_KNOWN & schema.keys()) - {keyword, "type", "format"}
        if beside:
            raise _refused(
                where,
                f"has {min(beside)!r} beside {keyword!r}; the model server can enforce one of them",
            )

    def _typed(self, schema: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
        kind = schema.get("type")
        if isinstance(kind, list):
            if not 0 < len(kind) <= len(_PRIMITIVES) or any(isinstance(k, list) for k in kind):
                raise _refused(f"{where}.type", f"must be some of {', '.join(_PRIMITIVES)}")
            return {"anyOf": [self._typed({**schema, "type": k}, where, depth) for k in kind]}
        if kind is None:
            if "properties" in schema or "additionalProperties" in schema:
                kind = "object"
            elif "items" in schema or "prefixItems" in schema:
                kind = "array"
            elif schema.keys() & {"pattern", "minLength", "maxLength", "format"}:
                kind = "string"
            else:
                return {"anyOf": self._any()}
        if kind == "object":
            return self._object(schema, where, depth)
        if kind == "array":
            return self._array(schema, where, depth)
        if kind == "string":
            return self._string(schema, where)
        if not isinstance(kind, str) or kind not in _PRIMITIVES:
            raise _refused(f"{where}.type", f"must be one of {', '.join(_PRIMITIVES)}")
        return {"type": kind}

    @staticmethod
    def _any() -> list[dict[str, Any]]:
        """Any JSON value: the converter would read an empty schema as an object."""
        return [{"type": kind} for kind in _PRIMITIVES if kind != "integer"]

    def _object(self, schema: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {"type": "object"}
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise _refused(f"{where}.properties", "must be an object")
        rewritten = {}
        for name, value in properties.items():
            self._plain(name, f"{where}.properties")
            rewritten[name] = self._visit(value, f"{where}.properties.{name}", depth + 1)
        if rewritten:
            result["properties"] = rewritten
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refused(f"{where}.required", "must be an array of names")
        if required:
            if any(name not in rewritten for name in required):
                raise _refused(f"{where}.required", "names a property that is not described")
            result["required"] = required
        more = schema.get("additionalProperties")
        if isinstance(more, dict) and more:
            result["additionalProperties"] = self._visit(
                more, f"{where}.additionalProperties", depth + 1
            )
        elif more is False:
            result["additionalProperties"] = False
        return result

    def _array(self, schema: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {"type": "array"}
        low, high = self._bounds(schema, "minItems", "maxItems", where)
        prefix = schema.get("prefixItems")
        if prefix is not None:
            if not isinstance(prefix, list) or not prefix:
                raise _refused(f"{where}.prefixItems", "must be an array of schemas")
            result["prefixItems"] = [
                self._visit(item, f"{where}.prefixItems[{i}]", depth + 1)
                for i, item in enumerate(prefix)
            ]
            # So many and no more are written, whatever further ones would have to be.
            if not low <= len(prefix) <= (len(prefix) if high is None else high):
                raise _refused(f"{where}.prefixItems", "must be as many as minItems and maxItems")
            return result
        items = schema.get("items", True)
        if items is True and (low, high) == (0, None):
            return result
        result["items"] = self._visit(items, f"{where}.items", depth + 1)
        result["minItems"] = low
        if high is not None:
            result["maxItems"] = high
        return result

    def _string(self, schema: dict[str, Any], where: str) -> dict[str, Any]:
        pattern = schema.get("pattern")
        text_format = schema.get("format")
        enforced = isinstance(text_format, str) and text_format in _ENFORCED_FORMATS
        low, high = self._bounds(schema, "minLength", "maxLength", where)
        ways = [pattern is not None, enforced, (low, high) != (0, None)]
        if sum(ways) > 1:
            raise _refused(
                where,
                "has more than one of a pattern, a format and a length; the model server can "
                "enforce one of them",
            )
        if pattern is not None:
            if not isinstance(pattern, str) or not _is_enforced(pattern):
                raise _refused(
                    f"{where}.pattern",
                    "must have the form ^...$ with letters, digits, [a-z] classes, {1,99}, *, + "
                    "or ?; the model server can't enforce others",
                )
            return {"type": "string", "pattern": pattern}
        if enforced:
            return {"type": "string", "format": text_format}
        result: dict[str, Any] = {"type": "string"}
        if (low, high) != (0, None):
            result["minLength"] = low
            if high is not None:
                result["maxLength"] = high
        return result

    def _bounds(
        self, schema: dict[str, Any], low_name: str, high_name: str, where: str
    ) -> tuple[int, int | None]:
        low, high = schema.get(low_name, 0), schema.get(high_name)
        for name, value in ((low_name, low), (high_name, high)):
            if value is None:
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or not 0 <= value <= MAX_REPEAT
            ):
                raise _refused(f"{where}.{name}", f"must be 0 to {MAX_REPEAT}")
        if high is not None and high < low:
            raise _refused(f"{where}.{high_name}", f"is less than {low_name}")
        return low, high

    def _values(self, schema: dict[str, Any], where: str) -> list[Any]:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list) or not 0 < len(values) <= MAX_ENUM:
            raise _refused(f"{where}.enum", f"must be an array of 1 to {MAX_ENUM} values")
        for value in values:
            if isinstance(value, str):
                self._plain(value, f"{where}.enum")
            elif isinstance(value, dict | list):
                raise _refused(f"{where}.enum", "may hold texts, numbers, booleans and null")
        return values

    @staticmethod
    def _plain(text: str, where: str) -> None:
        r"""Texts end up in the grammar as literals, in which ``"``, ``\`` and control characters
        are not escaped right, nor characters that JSON writes as two escapes."""
        if not text or len(text) > MAX_TEXT:
            raise _refused(where, f"has a name or value that is not 1 to {MAX_TEXT} characters")
        if any(c in '"\\\x7f' or c < " " or c > "\uffff" for c in text):
            raise _refused(
                where,
                "has a name or value with a quotation mark, a backslash, a control character or "
                "an emoji; the model server can't enforce those",
            )

    def _alternatives(self, value: Any, where: str, depth: int) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not value:
            raise _refused(where, "must be an array of schemas")
        return [self._visit(one, f"{where}[{i}]", depth + 1) for i, one in enumerate(value)]

    def _all_of(self, schema: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
        """One member is that member, as pydantic writes a reference with a description; for more
        the converter's merge is right only by luck."""
        members = schema["allOf"]
        if isinstance(members, list) and len(members) == 1:
            self._alone(schema, "allOf", where)
            return self._visit(members[0], f"{where}.allOf[0]", depth + 1)
        raise _refused(f"{where}.allOf", "may have one member; the model server can't merge more")

    def _reference(self, reference: Any, where: str) -> str:
        match = _LOCAL.fullmatch(reference) if isinstance(reference, str) else None
        if match is None:
            raise _refused(f"{where}.$ref", "must be of the form #/$defs/Name")
        kind, name = match.groups()
        holder = self._root.get(kind)
        if not isinstance(holder, dict) or name not in holder:
            raise _refused(f"{where}.$ref", "leads nowhere")
        key = f"{kind}/{name}"
        if key not in self._names:
            if len(self._names) >= MAX_DEFINITIONS:
                raise _refused(self._where, f"uses more than {MAX_DEFINITIONS} definitions")
            new = self._names[key] = f"definition-{len(self._names)}-of-schema"
            self._waiting.append((new, holder[name], f"{self._where}.{kind}.{name}"))
        return f"#/$defs/{self._names[key]}"

    def _check_finite(self, name: str) -> None:
        """A definition that leads back to itself before any character is written has no end."""
        finite = self._finite.get(name)
        if finite:
            return
        if finite is False:
            raise _refused(self._where, "has a definition that is nothing but itself")
        self._finite[name] = False
        pending = [self._definitions[name]]
        while pending:
            schema = pending.pop()
            if "$ref" in schema:
                self._check_finite(schema["$ref"].rsplit("/", 1)[1])
            pending.extend(schema.get("anyOf", ()))
        self._finite[name] = True
