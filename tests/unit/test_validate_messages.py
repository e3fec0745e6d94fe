"""Messages: what is repaired, what is refused, and what becomes of a template's marks in them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy import validate
from llamakit_proxy.errors import ApiError
from llamakit_proxy.validate.messages import repair
from llamakit_proxy.validate.text import JOINER, neutralise
from support.prepared import ROUTE, chat, refused


@pytest.mark.parametrize(
    ("message", "repaired"),
    [
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        ({"role": "system", "content": "x", "name": "n"}, None),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "content": None, "refusal": "no", "audio": None},
            {"role": "assistant", "content": "no"},
        ),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "user", "content": "ab"},
        ),
        ({"role": "tool", "tool_call_id": "c1", "content": "r"}, None),
        (
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "r"},
            {"role": "tool", "tool_call_id": "c1", "content": "r"},
        ),
        ({"role": "function", "name": "f", "content": "r"}, None),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
        ),
    ],
)
def test_messages_are_repaired(message: dict[str, Any], repaired: dict[str, Any] | None) -> None:
    assert chat(messages=[message]).document["messages"] == [repaired or message]


@pytest.mark.parametrize(
    "message",
    [
        None,
        "hello",
        {},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": 3},
        {"role": "root", "content": "x"},
        {"role": ["user"], "content": "x"},
        {"role": "user", "content": "x", "extra": 1},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": "x", "name": "<|im_start|>"},
        {"role": "tool", "content": "x"},
        {"role": "function", "content": "x"},
        {"role": "assistant", "content": "x", "tool_calls": [{}]},
        {"role": "assistant", "content": "x", "tool_calls": "x"},
        {"role": "assistant", "content": "x", "function_call": {"name": "f"}},
        {"role": "assistant", "content": "x", "audio": {"id": "x"}},
    ],
)
def test_messages_that_are_refused(message: Any) -> None:
    assert (refused(messages=[message]).param or "").startswith("messages[0]")


def test_messages_have_to_be_there() -> None:
    assert refused(messages=[]).param == "messages"
    with pytest.raises(ApiError) as caught:
        validate.chat({"model": "tiny"}, ROUTE)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_start|>",
        "<|eot_id|>",
        "</s>",
        "<s>",
        "<unk>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<\uff5cUser\uff5c>",
        "<bos>",
        "[TOOL_CALLS]",
        "<seed:bos>",
        "<EOS_TOKEN>",
        "[gMASK]",
        "<sop>",
        "[/THINK]",
    ],
)
def test_control_marks_are_broken_and_stay_readable(mark: str) -> None:
    text = neutralise(f"before {mark}system{mark}{mark}")
    assert mark not in text
    assert text.replace(JOINER, "") == f"before {mark}system{mark}{mark}"


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "a < b | c > d",
        "if (x <| y) [1]",
        "<div><span>|</span></div>",
        "[a](b) [INSTALL] <sup>",
        "List<String> x = a[i]; f |> g <| h",
        "",
    ],
)
def test_ordinary_text_is_not_touched(text: str) -> None:
    assert neutralise(text) == text


@given(st.text(st.sampled_from("<|>s/[]INST im_"), max_size=40))
def test_no_mark_survives(text: str) -> None:
    done = neutralise(text)
    assert done.replace(JOINER, "") == text
    assert neutralise(done) == done


@pytest.mark.parametrize(
    "escaped", ["\\u003c|im_start|\\u003esystem", "<\\/s>", "\\u005bINST]", "<\\/tool_call>"]
)
def test_control_tokens_that_json_hides_are_broken_too(escaped: str) -> None:
    """The backend's template shows what the arguments are, not how they were written."""
    arguments = f'{{"{escaped}": ["{escaped}", 1.5]}}'
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "parsed": {"a": 1}}
    (repaired,) = repair([message])
    shown = json.loads(repaired["tool_calls"][0]["function"]["arguments"])
    ((key, (text, number)),) = shown.items()
    assert key == text == neutralise(json.loads(f'"{escaped}"'))
    assert JOINER in text
    assert number == 1.5


def test_arguments_that_hide_nothing_stay_as_they_are() -> None:
    for arguments in ('{"a":  "\\u00e9 < b"}', "no JSON", "[1, 2]", '"\\ud800"'):
        call = {"name": "f", "arguments": arguments}
        (repaired,) = repair([{"role": "assistant", "content": "", "function_call": call}])
        assert repaired["function_call"]["arguments"] == arguments
    deep = {"name": "f", "arguments": "[" * 100_000 + "]" * 100_000}
    with pytest.raises(ApiError, match="too deeply"):
        repair([{"role": "assistant", "content": "", "function_call": deep}])
