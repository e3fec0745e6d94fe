"""Conversations with calls, as chat templates take them."""

from typing import Any

import pytest

from llamakit_proxy.validate.turns import fit
from support.prepared import ROUTE, chat


def route(dialect: str | None) -> Any:
    return type(ROUTE)(**{n: getattr(ROUTE, n) for n in ROUTE.__slots__} | {"tools": dialect})


def call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "content": call_id, "tool_call_id": call_id}


ASKED = {"role": "assistant", "content": "so", "tool_calls": [call("one"), call("two")]}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "x"},
    ASKED,
    result("two"),
    result("one"),
    result("three"),
]


@pytest.mark.parametrize("dialect", [None, "hermes"])
def test_most_templates_take_them_as_they_come(dialect: str | None) -> None:
    assert fit(MESSAGES, route(dialect)) == MESSAGES


def test_one_call_in_a_message() -> None:
    assert fit(MESSAGES, route("llama3")) == [
        MESSAGES[0],
        {**ASKED, "tool_calls": [call("one")]},
        result("one"),
        {**ASKED, "content": "", "tool_calls": [call("two")]},
        result("two"),
        result("three"),
    ]


def test_ids_of_nine_characters() -> None:
    _, asked, *results = fit(MESSAGES, route("mistral"))
    ids = [call["id"] for call in asked["tool_calls"]]
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids)
    assert [item["tool_call_id"] for item in results[:2]] == ids[::-1]
    kept = [{"role": "assistant", "content": "", "tool_calls": [call("abcDEF123")]}]
    assert fit(kept, route("mistral")) == kept


def test_the_older_form_becomes_the_newer() -> None:
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "y"},
    ]
    fitted = chat(route("hermes"), messages=messages).document["messages"]
    assert fitted[1]["tool_calls"] == [call("call_1")]
    assert fitted[2] == {"role": "tool", "content": "y", "tool_call_id": "call_1"}
    assert chat(messages=messages).document["messages"] == messages
