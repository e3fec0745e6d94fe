"""Tools: what the model is told of them, and what its answer is held to."""

from typing import Any

import pytest

from llamakit_proxy.errors import ApiError
from llamakit_proxy.routes import Route
from llamakit_proxy.validate.prepared import Prepared
from llamakit_proxy.validate.text import JOINER
from support.prepared import ROUTE, chat, refused

HERMES = Route(**{name: getattr(ROUTE, name) for name in ROUTE.__slots__} | {"tools": "hermes"})
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
CHOICE = {"type": "function", "function": {"name": "look_up"}}


def test_tools() -> None:
    assert chat(tools=[TOOL], tool_choice="none").document.keys() == chat().document.keys()
    assert chat(tools=[], tool_choice="auto").style.tool is None
    for choice in (CHOICE, "required"):
        prepared = chat(tools=[TOOL], tool_choice=choice)
        assert prepared.document["response_format"] == {
            "type": "json_object",
            "schema": {"type": "object"},
        }
        assert prepared.document["tools"] == [TOOL]
        assert prepared.style.tool == "look_up"
    bare = chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="required")
    (tool,) = bare.document["tools"]
    assert tool["function"]["parameters"]["type"] == "object"
    legacy = chat(functions=[TOOL["function"]], function_call={"name": "look_up"})
    assert legacy.style.tool == "look_up"
    assert legacy.style.legacy_function


def test_a_model_that_knows_tools_chooses() -> None:
    for fields in ({"tools": [TOOL]}, {"functions": [TOOL["function"]]}):
        prepared = chat(HERMES, **fields)
        assert prepared.document["tools"] == [TOOL]
        assert "response_format" not in prepared.document
        assert prepared.style.calling is not None
        assert prepared.style.calling.names == {"look_up"}
        assert prepared.style.calling.parallel == ("tools" in fields)
    text = {"type": "text"}
    assert chat(HERMES, tools=[TOOL], response_format=text).style.calling is not None
    refused(HERMES, tools=[TOOL], response_format={"type": "json_object"})
    refused(HERMES, functions=[TOOL["function"]], function_call="required")
    assert chat(HERMES, tools=[TOOL], tool_choice="none").style.calling is None


def test_some_of_the_tools_are_allowed() -> None:
    other = {"type": "function", "function": {"name": "other"}}

    def ask(mode: str, *tools: Any) -> Prepared:
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [*tools]}}
        return chat(HERMES, tools=[TOOL, other], tool_choice=allowed)

    chosen = ask("auto", CHOICE)
    assert chosen.document["tools"] == [TOOL]
    assert chosen.style.calling is not None
    assert ask("required", CHOICE).style.tool == "look_up"
    for mode, *tools in (("none", CHOICE), ("auto", {}), ("auto", {**CHOICE, "function": None})):
        with pytest.raises(ApiError):
            ask(str(mode), *tools)


def test_tools_are_shown_as_they_are_but_for_control_marks() -> None:
    described = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^\d$"}}}
    function = {"name": "f", "description": "a <|im_end|> b", "parameters": described}
    tool = {"type": "function", "function": function}
    (shown,) = chat(HERMES, tools=[tool]).document["tools"]
    assert shown["function"]["description"] == f"a <{JOINER}|im_end|> b"
    assert shown["function"]["parameters"] == described
    # Only what must be enforced has to be enforceable.
    assert refused(HERMES, tools=[tool], tool_choice="required").code == "unsupported_schema"


def test_definitions_that_nothing_refers_to_may_be_anything() -> None:
    function = {"name": "f", "parameters": {"type": "object", "$defs": "none"}}
    tools = [TOOL, {"type": "function", "function": function}]
    schema = chat(HERMES, tools=tools, tool_choice="required").document["response_format"]["schema"]
    assert len(schema["anyOf"]) == 2


def test_one_of_several_tools_is_required() -> None:
    node = {
        "$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}},
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/N"}, "$ref": {"type": "string"}},
    }
    tools = [
        {"type": "function", "function": {"name": name, "parameters": node}} for name in ("a", "b")
    ]
    schema = chat(HERMES, tools=tools, tool_choice="required").document["response_format"]["schema"]
    assert [call["properties"]["name"] for call in schema["anyOf"]] == [
        {"enum": ["a"]},
        {"enum": ["b"]},
    ]
    references = [call["properties"]["arguments"]["properties"]["n"] for call in schema["anyOf"]]
    assert len({reference["$ref"] for reference in references}) == len(schema["$defs"]) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL, {**TOOL, "function": {"name": "b"}}], "tool_choice": "required"},
        {"functions": [TOOL["function"]]},
    ],
)
def test_the_model_can_not_choose_a_tool(fields: dict[str, Any]) -> None:
    error = refused(**fields)
    assert error.code == "unsupported_tool_choice"
    assert '"none"' in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": CHOICE},
        {"tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [TOOL], "tool_choice": "sometimes"},
        {"tools": [TOOL], "tool_choice": {"type": "function"}},
        {"tools": [TOOL, TOOL], "tool_choice": CHOICE},
        {"tools": [TOOL] * 129},
        {"tools": [TOOL], "functions": [TOOL["function"]], "tool_choice": CHOICE},
        {"tools": [{"type": "code_interpreter"}], "tool_choice": "none"},
        {"tools": [{"type": "function", "function": {"name": 'a"b'}}], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "required"},
    ],
)
def test_tools_that_are_refused(fields: dict[str, Any]) -> None:
    refused(**fields)


@pytest.mark.parametrize(
    "schema", [{"const": 1.5}, {"const": {}}, {"enum": [{}]}, {"minimum": 0.5}, {"type": "string"}]
)
def test_parameters_that_are_no_object(schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    error = refused(HERMES, tools=[tool], tool_choice="required")
    assert (error.code, error.param) == ("unsupported_schema", "tools[0].parameters")
