"""Requests for a response: the chat that is made of them, and what is refused in which words."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from llamakit_proxy import responses, validate
from llamakit_proxy.chunks import Chunks
from llamakit_proxy.errors import ApiError
from llamakit_proxy.validate.prepared import Prepared
from support.prepared import ROUTE as CHAT_ROUTE

ROUTE = replace(CHAT_ROUTE, logprobs=True)
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "name": "look_up", "parameters": PARAMETERS}
CALL = {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "42"}


def prepare(**fields: Any) -> Prepared:
    return responses.prepare({"model": "tiny.gguf", "input": "hello", **fields}, ROUTE)


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        prepare(**fields)
    assert caught.value.status == 400
    return caught.value


def messages(items: list[Any], **fields: Any) -> Any:
    return prepare(input=items, **fields).document["messages"]


def echo(**fields: Any) -> dict[str, Any]:
    """The answer to a request, with nothing in it; it is what the openai package says it is."""
    prepared = prepare(**fields)
    choice = {"message": {"content": ""}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
    writer = prepared.writer(Chunks(prepared.style))
    answer = writer.whole({"choices": [choice], "usage": usage})
    Response.model_validate(answer, strict=True)
    return answer


def test_every_parameter_of_the_openai_package_is_in_the_table() -> None:
    assert ResponseCreateParamsBase.__annotations__.keys() - responses.FIELDS.keys() == set()


def test_a_text_is_a_message() -> None:
    prepared = prepare(instructions="Be brief.", max_output_tokens=9, top_k=3, seed=5, stop="x")
    document = prepared.document
    assert document["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert (document["max_tokens"], document["top_k"], document["seed"]) == (9, 3, 5)
    assert document["stop"] == ["x"]
    assert not prepared.stream
    assert prepare(stream=True).style.include_usage


def test_nulls_are_left_out() -> None:
    nothing: dict[str, Any] = dict.fromkeys(responses.FIELDS.keys() - {"model", "input"})
    assert prepare(**nothing).document["max_tokens"] == 512


def test_items_are_messages() -> None:
    items = [
        {"role": "developer", "content": "a"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}] * 2},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}],
        },
        {**CALL, "id": "fc_1", "status": "completed"},
        {**CALL, "call_id": "c2"},
        RESULT,
        {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "43"}]},
        {"role": "assistant", "content": "d"},
    ]
    function = {"name": "look_up", "arguments": "{}"}
    assert messages(items) == [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "bb"},
        {
            "role": "assistant",
            "content": "c",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "tool", "tool_call_id": "c2", "content": "43"},
        {"role": "assistant", "content": "d"},
    ]


def test_control_tokens_are_text_here_too() -> None:
    mark = "<|im_start|>"
    sent = messages([{"role": "user", "content": mark}, CALL, {**RESULT, "output": mark}])
    assert mark not in str(sent)


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([], "input"),
        (7, "input"),
        ([{"type": "reasoning", "id": "r", "summary": []}], "input"),
        (["text"], "input[0]"),
        ([{}], "input[0].role"),
        ([{"role": "tool", "content": "x"}], "input[0].role"),
        ([{"role": ["user"], "content": "x"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": [7]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": ["text"]}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": "x", "colour": "red"}], "input[0]"),
        ([{"type": ["message"]}], "input[0].type"),
        ([{"type": "web_search_call", "id": "x"}], "input[0].type"),
        ([{"type": "item_reference", "id": "x"}], "input[0]"),
        ([RESULT], "input[0].call_id"),
        ([CALL, {**RESULT, "output": None}], "input[1].output"),
        ([{**CALL, "call_id": ""}], "input[0].call_id"),
        ([{**CALL, "name": "a b"}], "input[0].name"),
        ([{**CALL, "arguments": {}}], "input[0].arguments"),
        ([CALL] * 129, "input[128]"),
        ([{"role": "user", "content": "x"}] * 4097, "input"),
    ],
)
def test_input_that_is_wrong(items: Any, param: str) -> None:
    error = refused(input=items)
    assert error.param == param
    assert "messages[" not in error.message


def test_what_a_store_would_be_for_says_what_to_do_instead() -> None:
    assert "send the whole conversation" in refused(previous_response_id="resp_1").message
    assert "send the item itself" in refused(input=[{"type": "item_reference"}]).message
    assert "function_call item before" in refused(input=[RESULT]).message
    for store in (True, False, None):
        assert echo(store=store)["store"] is False


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", None),
        ("background", True),
        ("truncation", "auto"),
        ("conversation", "conv_1"),
        ("prompt", {"id": "x"}),
        ("n", 2),
        ("messages", []),
        ("max_tokens", 5),
        ("max_output_tokens", 0),
        ("stream_options", {"include_obfuscation": False}),
        ("include", ["everything"]),
        ("include", [["x"]]),
        ("top_logprobs", 2),
        ("metadata", {"a": 1}),
        ("metadata", {str(n): "x" for n in range(17)}),
        ("metadata", {"x" * 65: "x"}),
        ("text", {"format": {"type": "grammar"}}),
        ("text", {"format": []}),
        ("text", {"form": {}}),
        ("text", {"verbosity": ["low"]}),
        ("text", {"format": {"type": "json_schema", "schema": {}}}),
        ("text", {"format": {"type": "json_schema", "name": "x"}}),
        ("text", {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": 1}}),
        ("tools", [{"type": "web_search"}]),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tools", [7]),
        ("tools", [{"type": "function"}]),
        ("tools", [{**TOOL, "strict": "yes"}]),
        ("tools", [{**TOOL, "description": 7}]),
        ("tools", [{**TOOL, "parameters": []}]),
        ("tools", [TOOL, TOOL]),
        ("tool_choice", {"type": "function"}),
        ("tool_choice", {"type": "function", "name": "look_up"}),
        ("tool_choice", {"type": "web_search"}),
        ("tool_choice", {"type": "allowed_tools", "mode": "none", "tools": []}),
        ("tool_choice", {"type": "allowed_tools", "mode": "auto", "tools": [7]}),
        ("tool_choice", ["auto"]),
    ],
)
def test_refused(field: str, value: Any) -> None:
    error = refused(**{field: value})
    assert field in (error.param or error.message)


def test_neutral_values_pass() -> None:
    prepare(background=False, truncation="disabled", store=True, parallel_tool_calls=True)
    prepare(stream=True, stream_options={"include_obfuscation": True})
    prepare(include=["reasoning.encrypted_content"], reasoning={"effort": "low"}, top_logprobs=0)


def test_the_chats_errors_name_what_the_client_sent() -> None:
    error = refused(max_output_tokens=513)
    assert error.param == "max_output_tokens"
    assert error.message.startswith("max_output_tokens is too large")
    form = {"type": "json_schema", "name": "x", "schema": {"type": "string", "pattern": r"^\d$"}}
    error = refused(text={"format": form})
    assert (error.param or "").startswith("text.format.schema")
    assert "'text.format.schema" in error.message
    form["schema"] = {"type": "object", "properties": {"max_tokens": {"not": {}}}}
    assert "max_tokens" in refused(text={"format": form}).message
    error = refused(tools=[TOOL], tool_choice={"type": "function", "name": "other"})
    assert error.param == "tool_choice"
    with pytest.raises(ApiError) as caught, responses.own_words():
        raise ApiError(400, "context_length_exceeded", "It has messages.", param="messages")
    assert (caught.value.param, caught.value.message) == ("input", "It has messages.")


def test_format() -> None:
    form = {"type": "json_schema", "name": "x", "schema": PARAMETERS, "strict": True}
    document = prepare(text={"format": form, "verbosity": "low"}).document
    assert document["response_format"] == {"type": "json_object", "schema": PARAMETERS}
    answer = echo(text={"format": form, "verbosity": "low"})["text"]
    assert answer == {"format": {**form, "description": None}, "verbosity": "low"}
    assert echo()["text"] == {"format": {"type": "text"}, "verbosity": "medium"}


def test_tools() -> None:
    choice = {"type": "function", "name": "look_up"}
    function = {"name": "look_up", "parameters": PARAMETERS}
    chat = {
        "messages": [{"role": "user", "content": "hello"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "seed": 1,
    }
    for value in (choice, "required"):
        prepared = prepare(tools=[TOOL], tool_choice=value, seed=1)
        assert prepared.document == validate.chat(chat, ROUTE).document
        assert prepared.style.tool == "look_up"
    assert "tools" not in prepare(tools=[TOOL], tool_choice="none").document
    answer = echo(tools=[TOOL], tool_choice=choice)
    assert answer["tool_choice"] == choice
    assert answer["tools"] == [{**TOOL, "description": None, "strict": True}]


def test_log_probabilities() -> None:
    document = prepare(include=["message.output_text.logprobs"], top_logprobs=2).document
    assert (document["logprobs"], document["top_logprobs"]) == (True, 2)
    assert "logprobs" not in prepare().document


def test_what_the_answer_repeats() -> None:
    answer = echo(
        instructions="x", metadata={"a": "b"}, user="me", temperature=0, max_output_tokens=3
    )
    assert answer["instructions"] == "x"
    assert answer["metadata"] == {"a": "b"}
    assert (answer["user"], answer["temperature"], answer["max_output_tokens"]) == ("me", 0, 3)
    assert (answer["model"], answer["parallel_tool_calls"]) == ("tiny", True)
    assert answer["previous_response_id"] is None


_NAMES = st.sampled_from(
    ["type", "name", "format", "function", "text", "schema", "role", "parameters", "mode", "a"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "text", "x" * 70]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=8,
)
_ITEMS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["message", "function_call", "function_call_output"])},
        optional=dict.fromkeys(
            ["role", "content", "call_id", "name", "arguments", "output", "id"],
            st.sampled_from(["user", "assistant", "c1", [{"type": "input_text", "text": "x"}]]),
        ),
    ),
    max_size=5,
)


@given(
    fields=st.dictionaries(st.sampled_from(sorted(responses.FIELDS)), _VALUES, max_size=4),
    items=_ITEMS | _VALUES,
)
def test_a_400_or_a_proper_response(fields: dict[str, Any], items: Any) -> None:
    status = 400
    try:
        echo(**{"input": items, **fields})
    except ApiError as error:
        status = error.status
    assert status == 400
