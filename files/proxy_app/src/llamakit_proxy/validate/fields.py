"""Tables of request fields: the allow-list that is enforced, and what the API docs say.

A field's ``support`` is ``works`` (goes to the backend as it is), ``translated`` (the proxy makes
of it what the backend understands), ``ignored`` (accepted, has no effect) or ``refused`` (400
that says why, unless the value asks for nothing).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llamakit_proxy.errors import ApiError, invalid

Support = Literal["works", "translated", "ignored", "refused"]
Kind = Literal["boolean", "integer", "number", "string", "object", "array", "any"]

_TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "object": (dict,),
    "array": (list,),
    "any": (object,),
}
MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request's body."""

    name: str
    kind: Kind
    support: Support
    note: str
    """For the API docs; of a refused field it is also what the client is told."""
    low: float | None = None
    high: float | None = None
    neutral: tuple[Any, ...] = ()
    """Values of a refused field that ask for nothing and are therefore accepted."""

    @property
    def range(self) -> str:
        """The allowed range, as the docs and the errors write it; "" when there is none."""
        if self.low is None and self.high is None:
            return ""
        if self.high is None:
            return f"at least {_plain(self.low)}"
        if self.low == self.high:
            return _plain(self.low)
        return f"{_plain(self.low)} to {_plain(self.high)}"

    def check(self, value: Any) -> None:
        """ApiError 400 when ``value`` is not what this field may be."""
        wrong = not isinstance(value, _TYPES[self.kind])
        if isinstance(value, bool) and self.kind in ("integer", "number"):
            wrong = True
        if wrong:
            raise invalid(
                f"'{self.name}' must be {_article(self.kind)}, not {describe(value)}.",
                param=self.name,
                code="invalid_type",
            )
        if (self.low is not None and value < self.low) or (
            self.high is not None and value > self.high
        ):
            raise invalid(f"'{self.name}' is {value}; expected {self.range}.", param=self.name)


def accept(body: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of ``body`` that have an effect, checked by type and range.

    A null is the same as leaving the field out. Raises ApiError 400.
    """
    accepted = {}
    for name, value in body.items():
        field = fields.get(name)
        if field is None:
            raise unknown(name)
        if value is None:
            continue
        if field.support == "refused":
            if value not in field.neutral:
                raise invalid(field.note, param=name, code="unsupported_parameter")
            continue
        field.check(value)
        if field.support != "ignored":
            accepted[name] = value
    return accepted


def table(*fields: Field) -> dict[str, Field]:
    """Fields by their names."""
    return {field.name: field for field in fields}


def unknown(name: str) -> ApiError:
    """400 for a field nobody knows, in OpenAI's words."""
    shown = name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "…"
    return invalid(
        f"Unrecognized request argument supplied: {shown.encode('ascii', 'replace').decode()}",
        code="unknown_parameter",
    )


def describe(value: object) -> str:
    """What kind of JSON value this is, never the value itself."""
    for kind in ("boolean", "string", "number", "object", "array"):
        if isinstance(value, _TYPES[kind]):
            return _article(kind)
    return "null"


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def require(accepted: Mapping[str, Any], names: Iterable[str]) -> None:
    """ApiError 400 for a field that has to be there and is not."""
    for name in names:
        if name not in accepted:
            raise invalid(
                f"you must provide a {name} parameter", param=name, code="missing_parameter"
            )


def _plain(bound: float | None) -> str:
    """A bound without an exponent, whole where it is whole."""
    return str(int(bound)) if bound is not None and bound == int(bound) else f"{bound:g}"
