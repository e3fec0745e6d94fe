"""docs/api.md says of every parameter, endpoint and error what the proxy does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from llamakit_proxy import app, responses, validate
from llamakit_proxy.exchange import Cause
from llamakit_proxy.validate import Field
from unit.docs import pages

_PAGE = pages.page("docs/api.md")
_SOURCE = pages.ROOT / "files/proxy_app/src/llamakit_proxy"
_MAKERS = {
    "ApiError", "BackendError", "RefusedKeyError", "invalid", "unavailable",
    "_closing",
}  # fmt: skip
"""What makes an error; ``_refuse`` of the HTTP server makes one as well."""
_CODE = re.compile(r"[a-z]+(?:_[a-z]+)+")


def _shared() -> dict[str, Field]:
    both = validate.CHAT_FIELDS.items() & validate.COMPLETION_FIELDS.items()
    return {name: validate.CHAT_FIELDS[name] for name in validate.CHAT_FIELDS if name in dict(both)}


def _without(fields: Mapping[str, Field], left_out: Iterable[str]) -> list[Field]:
    names = set(left_out)
    return [field for name, field in fields.items() if name not in names]


_TABLES = {
    "sampling": list(_shared().values()),
    "chat": _without(validate.CHAT_FIELDS, _shared()),
    "responses": list(responses.FIELDS.values()),
    "completions": _without(validate.COMPLETION_FIELDS, _shared()),
    "embeddings": list(validate.EMBEDDING_FIELDS.values()),
}


@pytest.mark.parametrize("table", _TABLES)
def test_parameters_are_described_as_they_are_enforced(table: str) -> None:
    text = _PAGE.split(f"<!-- table: {table} -->")[1].split("\n#")[0]
    expected = [
        f"| `{field.name}` | {field.kind} | {field.support} | {field.range} | {field.note} |"
        for field in _TABLES[table]
    ]
    assert pages.rows(text) == expected


def test_events_of_a_response_are_described() -> None:
    written = {"response.completed", "response.incomplete"}
    for file in (_SOURCE / "responses").glob("*.py"):
        written.update(re.findall(r'"(response\.[a-z_.]+)"', file.read_text(encoding="utf-8")))
    described = {w for w in pages.words(_PAGE) if re.fullmatch(r"response\.[a-z_.]+", w)}
    assert described == written


def test_endpoints_are_described() -> None:
    described = pages.cells(pages.section(_PAGE, "Endpoints"))
    targets = [*app._TARGETS.values(), app._ONE_MODEL]
    own = {f"{target.method} {target.template}" for target in targets}
    other = {f"GET {path}" for path in (*app.PUBLIC, app.METRICS, "/openapi.json")}
    assert described == own | other


def test_error_codes_are_described() -> None:
    described = pages.cells(pages.section(_PAGE, "Errors"), column=1)
    logged_alone = {Cause.CLIENT_GONE.value, Cause.CLIENT_SLOW.value}
    assert described == _codes() - logged_alone
    assert logged_alone <= pages.words(_PAGE)


def _codes() -> set[str]:
    """Every code that is made an error of anywhere in the proxy."""
    found = {cause.value for cause in Cause}
    for file in _SOURCE.rglob("*.py"):
        found.update(_codes_in(file))
    return found


def _codes_in(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield from _codes_of(node)
        elif isinstance(node, ast.FunctionDef):
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            if node.name in _MAKERS:
                yield from filter(_is_code, map(_text, defaults))


def _codes_of(call: ast.Call) -> Iterator[str]:
    function = call.func
    called = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if called == "__init__" or called in _MAKERS or called == "_refuse":
        arguments = [*call.args, *(word.value for word in call.keywords if word.arg == "code")]
        yield from filter(_is_code, map(_text, arguments))


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_code(text: str) -> bool:
    return _CODE.fullmatch(text) is not None
