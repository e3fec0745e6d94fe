"""Tool calls in what a model writes: found while it writes, in the form its template taught it.

A call is given once it is complete and right: an object with the name of a tool of the request and
its arguments. Whatever only looks like a call is text.
"""

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any, Literal

MAX_HEAD = 200
"""Characters between the mark of a call and its JSON, at most."""

_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?(?:\[ARGS\])?\s*(?=\{)")
_UNNAMED = re.compile(r"\s*(?=[{\[])")
_BRACKETS = re.compile(r'["{}\[\]]')
_QUOTES = re.compile(r'["\\]')
_BETWEEN = " \t\r\n;,"
# Models put raw line breaks into the strings of their JSON.
_DECODER = json.JSONDecoder(strict=False)

Place = Literal["start", "text", "call", "after"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a family of models writes its calls."""

    mark: str = ""
    """What comes before a call; "" when nothing does."""
    end: str = ""
    """What may come after one."""
    bare: bool = False
    """Whether an answer that begins with JSON may be a call, without a mark."""
    named: bool = False
    """Whether the name may stand before the arguments: ``name[ARGS]{...}``."""
    id_length: int | None = None
    """Letters and digits that an id must have to get through the chat template."""
    single: bool = False
    """Whether the chat template takes one call per message and no more."""
    arguments: str = "arguments"
    """What the model calls the arguments."""

    def call_id(self) -> str:
        """A new id of a call."""
        if self.id_length is None:
            return f"call_{secrets.token_hex(12)}"
        return secrets.token_hex(self.id_length)[: self.id_length]


DIALECTS = {
    "hermes": Dialect("<tool_call>", "</tool_call>"),
    "llama3": Dialect("<|python_tag|>", bare=True, single=True, arguments="parameters"),
    "mistral": Dialect("[TOOL_CALLS]", bare=True, named=True, id_length=9),
}
"""By the name that a route gives them."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call; ``arguments`` is a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Calling:
    """How an answer may call tools."""

    dialect: Dialect
    names: frozenset[str]
    parallel: bool = True
    """Whether there may be more than one call; those after the first are dropped otherwise."""


class CallReader:
    """Reads one answer as it comes."""

    def __init__(self, calling: Calling) -> None:
        self._dialect = calling.dialect
        self._names = calling.names
        self._parallel = calling.parallel
        self._place: Place = "start"
        self._held = ""
        """Text that may turn out to be a call. A call in the making begins with its mark."""
        self._gap = ""
        """White space before a call in the making: part of the text if it is none."""
        self._marked = False
        self._json: _JsonEnd | None = None
        self._name: str | None = None
        self.called = False
        """Whether there was a call."""

    def feed(self, text: str) -> list[str | Call]:
        """What is certain with this text: texts and calls, in order."""
        self._held += text
        return self._read()

    def finish(self) -> list[str | Call]:
        """The rest, when the answer is over."""
        found = self._read()
        rest = self._held.lstrip(_BETWEEN) if self._place == "after" else self._gap + self._held
        self._held = self._gap = ""
        return [*found, rest] if rest else found

    def _read(self) -> list[str | Call]:
        found: list[str | Call] = []
        steps = {
            "start": self._start,
            "text": self._text,
            "call": self._call,
            "after": self._after,
        }
        while self._held and steps[self._place](found):
            continue
        return found

    # Each step reads on from its place; False when it needs more text.

    def _start(self, _found: list[str | Call]) -> bool:
        rest = self._held.lstrip()
        gap = self._held[: len(self._held) - len(rest)]
        return self._begin(rest, gap) or (not self._may_begin(rest) and self._go("text"))

    def _text(self, found: list[str | Call]) -> bool:
        mark = self._dialect.mark
        at = self._held.find(mark) if mark else -1
        if at >= 0:
            text, rest = self._held[:at].rstrip(), self._held[at:]
            if text:
                found.append(text)
            return self._begin(rest, self._held[len(text) : at])
        kept = _open_end(self._held, mark)
        if kept < len(self._held):
            end = len(self._held) - kept
            found.append(self._held[:end])
            self._held = self._held[end:]
        return False

    def _call(self, found: list[str | Call]) -> bool:
        held = self._held
        if self._json is None and not self._read_head():
            if not self._hopeless():
                return False
            # The mark alone, so that another one right after it is not overlooked.
            return self._give_back(len(self._dialect.mark), found)
        if self._json is None:
            return False
        json_end = self._json.find(held)
        if json_end is None:
            return False
        calls = self._parse(held[self._json.start : json_end])
        if calls is None:
            return self._give_back(json_end, found)
        self._held, self._gap = held[json_end:], ""
        for call in calls:
            if self._parallel or not self.called:
                found.append(call)
            self.called = True
        return self._go("after")

    def _after(self, _found: list[str | Call]) -> bool:
        rest, end = self._held.lstrip(_BETWEEN), self._dialect.end
        if end and rest.startswith(end):
            self._held = rest[len(end) :]
            return True
        if self._begin(rest):
            return True
        if not rest or (end and end.startswith(rest)) or self._may_begin(rest):
            return False
        self._held = rest
        return self._go("text")

    def _give_back(self, end: int, found: list[str | Call]) -> bool:
        """What is held up to ``end`` was no call."""
        found.append(self._gap + self._held[:end])
        self._held, self._gap = self._held[end:], ""
        return self._go("text")

    def _go(self, place: Place) -> bool:
        self._place = place
        return True

    def _begin(self, rest: str, gap: str = "") -> bool:
        """Whether ``rest`` begins a call; then it is what is read on. ``gap`` stands before it."""
        mark = self._dialect.mark
        self._marked = bool(mark) and rest.startswith(mark)
        bare = self._dialect.bare and self._place != "text" and rest[:1] in ("{", "[")
        if not self._marked and not (bare and not self._may_be_mark(rest)):
            return False
        self._held, self._gap = rest, gap
        self._json = self._name = None
        return self._go("call")

    def _may_begin(self, rest: str) -> bool:
        """Whether more text could make it the beginning of a call."""
        return not rest or self._may_be_mark(rest)

    def _may_be_mark(self, rest: str) -> bool:
        mark = self._dialect.mark
        return len(rest) < len(mark) and mark.startswith(rest)

    def _read_head(self) -> bool:
        """Whether the JSON of the call has begun."""
        at = len(self._dialect.mark) if self._marked else 0
        head = _UNNAMED.match(self._held, at)
        if head is None and self._dialect.named and self._marked:
            head = _NAMED.match(self._held, at)
            self._name = head[1] if head else None
        if head is None:
            return False
        self._json = _JsonEnd(head.end())
        return True

    def _hopeless(self) -> bool:
        """Whether no JSON can follow any more."""
        head = self._held[len(self._dialect.mark) :].lstrip()
        if not head:
            return False
        return not self._dialect.named or len(head) > MAX_HEAD or not re.match(r"[\w.-]", head)

    def _parse(self, text: str) -> list[Call] | None:
        """The calls in a complete JSON value; None when it is anything else."""
        try:
            value = _DECODER.decode(text)
            if self._name is not None:
                value = {"name": self._name, "arguments": value}
            calls = [self._one(item) for item in (value if isinstance(value, list) else [value])]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return calls or None

    def _one(self, item: Any) -> Call:
        if isinstance(item, dict) and isinstance(item.get("function"), dict):
            item = item["function"]
        if not isinstance(item, dict):
            raise TypeError("a call is an object")
        name = item["name"]
        if name not in self._names:
            raise ValueError("there is no such tool")
        if "arguments" in item:
            arguments = item["arguments"]
        else:
            # A mark says that a call is meant; one without arguments needs none.
            arguments = item.get("parameters", {}) if self._marked else item["parameters"]
        if isinstance(arguments, str):
            arguments = _DECODER.decode(arguments)
        if not isinstance(arguments, dict):
            raise TypeError("arguments are an object")
        return Call(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False))


class _JsonEnd:
    """Finds where a JSON value ends whose text comes in pieces."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._at = start
        self._depth = 0
        self._in_text = False

    def find(self, held: str) -> int | None:
        """The position after the value; None when it goes on. ``held`` only ever grows."""
        while True:
            match = (_QUOTES if self._in_text else _BRACKETS).search(held, self._at)
            if match is None:
                self._at = len(held)
                return None
            if match[0] == "\\":
                if match.end() == len(held):
                    self._at = match.start()
                    return None
                self._at = match.end() + 1
                continue
            self._at = match.end()
            if match[0] == '"':
                self._in_text = not self._in_text
            else:
                self._depth += 1 if match[0] in "{[" else -1
                if self._depth == 0:
                    return self._at


def _open_end(text: str, mark: str) -> int:
    """How many characters at the end may be the beginning of ``mark`` with white space before."""
    part = next(
        (
            size
            for size in range(min(len(mark) - 1, len(text)), 0, -1)
            if mark.startswith(text[-size:])
        ),
        0,
    )
    return len(text) - len(text[: len(text) - part].rstrip())
