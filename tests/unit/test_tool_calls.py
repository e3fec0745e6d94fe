"""Calls in what a model writes, however its text is cut into pieces."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy.tool_calls import DIALECTS, Call, Calling, CallReader

NAMES = frozenset({"f", "g"})


def read(dialect: str, pieces: list[str], *, parallel: bool = True) -> list[str | Call]:
    """What the reader finds; texts that follow one another are joined."""
    reader = CallReader(Calling(DIALECTS[dialect], NAMES, parallel))
    found: list[str | Call] = []
    for part in [*(part for piece in pieces for part in reader.feed(piece)), *reader.finish()]:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


F = Call("f", '{"a": 1}')
G = Call("g", "{}")
CASES: list[tuple[str, str, list[str | Call]]] = [
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [F]),
    ("hermes", 'So.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n', ["So.", F]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', [F]),
    ("hermes", '<tool_call>{"name": "g"}</tool_call><tool_call>{"name": "g"}</tool_call>', [G, G]),
    ("hermes", '<tool_call>[{"name": "g"}, {"name": "g"}]</tool_call> Done.', [G, G, "Done."]),
    ("hermes", '<tool_call> no <tool_call>{"name": "g"}</tool_call>', ["<tool_call> no", G]),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "\\\\\\"}</tool_call>"}}',
        [Call("f", '{"a": "\\\\\\"}</tool_call>"}')],
    ),
    (
        "hermes",
        '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": "\n"}}}',
        [Call("f", '{"a": "\\n"}')],
    ),
    ("llama3", '{"name": "f", "parameters": {"a": 1}}', [F]),
    ("llama3", '\n<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [F]),
    ("llama3", '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', [F, G]),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]', [F]),
    ("mistral", '[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]', [F, G]),
    ("mistral", 'Well [TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', ["Well", F, G]),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"a": 1}', [F]),
]
TEXTS = [
    ("hermes", "  text with <tool_ and <tool_call and white space \n\n"),
    ("hermes", '{"name": "f", "arguments": {}}'),
    ("hermes", '<tool_call>{"name": "h", "arguments": {}}</tool_call> unknown'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": ["f"], "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'),
    ("hermes", "<tool_call>{]}</tool_call>"),
    ("hermes", "<tool_call>" + "[" * 100_000 + "]" * 100_000),
    ("hermes", '<tool_call>{"name": "f", "argu'),
    ("hermes", "\n <tool_call>"),
    ("hermes", "a \n<tool_call> no"),
    ("llama3", '{"name": "f"}'),
    ("llama3", '{"name": "Ada", "parameters": {}} and more'),
    ("llama3", 'Use {"name": "f", "parameters": {}}'),
    ("llama3", "<|python_tag|>f.call(a=1)"),
    ("mistral", "[1, 2, 3]"),
    ("mistral", "[TOOL"),
    ("mistral", "[TOOL_CALLS]f no arguments"),
    ("mistral", "[TOOL_CALLS]" + "f" * 300),
    ("mistral", "[]"),
]


@pytest.mark.parametrize(("dialect", "text", "expected"), CASES)
def test_calls(dialect: str, text: str, expected: list[str | Call]) -> None:
    assert read(dialect, [text]) == read(dialect, list(text)) == expected
    first = next(index for index, part in enumerate(expected) if isinstance(part, Call))
    calls = [part for part in read(dialect, [text], parallel=False) if isinstance(part, Call)]
    assert calls == [expected[first]]


@pytest.mark.parametrize(("dialect", "text"), TEXTS)
def test_what_only_looks_like_a_call_is_text(dialect: str, text: str) -> None:
    assert read(dialect, [text]) == read(dialect, [text[:9], text[9:]]) == [text]


PIECES = st.lists(
    st.one_of(
        st.text(max_size=5),
        st.sampled_from(
            [
                *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"),
                *('{"name": "f", ', '"arguments": {}}', '"parameters": {}}', "\n", *"[]{}"),
            ]
        ),
    ),
    max_size=12,
)


@given(st.sampled_from(sorted(DIALECTS)), PIECES)
def test_any_text_is_read_the_same_however_it_is_cut(dialect: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    found = read(dialect, pieces)
    assert found == read(dialect, [text]) == read(dialect, list(text))
    for part in found:
        if isinstance(part, Call):
            arguments: Any = json.loads(part.arguments)
            assert isinstance(arguments, dict)
    if not any(isinstance(part, Call) for part in found):
        assert "".join(map(str, found)) == text


def test_ids() -> None:
    assert DIALECTS["hermes"].call_id().startswith("call_")
    assert len(DIALECTS["mistral"].call_id()) == 9
