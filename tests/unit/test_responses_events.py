"""A chat's chunks as the events of a response."""

import json
from typing import Any

import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from llamakit_proxy.chunks import Chunks, Style
from llamakit_proxy.errors import ApiError, unavailable
from llamakit_proxy.responses.answer import Answer
from llamakit_proxy.responses.events import EventWriter

EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def writer() -> EventWriter:
    return EventWriter(Answer(SETTINGS), Chunks(Style(chat=True, include_usage=True)))


def payload(delta: dict[str, Any], finish: str | None = None, **choice: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return json.dumps({**chunk, "choices": choices}).encode()


def text(content: str) -> bytes:
    return payload({"content": content})


def call(index: int, arguments: str, name: str | None = None) -> bytes:
    first = {"id": f"call_{index}", "type": "function"} if name else {}
    function = {"name": name} if name else {}
    part = {"index": index, **first, "function": {**function, "arguments": arguments}}
    return payload({"tool_calls": [part]})


def usage() -> bytes:
    return json.dumps({"choices": [], "usage": USAGE}).encode()


def events(written: bytes) -> list[dict[str, Any]]:
    """The events; each is what the openai package says it is."""
    found = []
    for block in written.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event, strict=True)
        found.append(event)
    return found


def stream(*payloads: bytes, finish: str = "stop") -> list[dict[str, Any]]:
    events_of = writer()
    ends = [payload({}, finish), usage(), b"[DONE]"]
    written = [events_of.read(each) for each in (payload({"role": "assistant"}), *payloads, *ends)]
    found = events(b"".join([*written, events_of.closing()]))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


TEXT = ["output_item.added", "content_part.added", "output_text.delta"]
TEXT_END = ["output_text.done", "content_part.done", "output_item.done"]
CALL = ["output_item.added", "function_call_arguments.delta"]
CALL_END = ["function_call_arguments.done", "output_item.done"]


def test_text_and_several_calls() -> None:
    found = stream(
        text("Let me "),
        text("look."),
        call(0, "", "find"),
        call(0, '{"a":'),
        call(0, "1}"),
        call(1, "{}", "read"),
        finish="tool_calls",
    )
    assert kinds(found) == [
        "created",
        "in_progress",
        *TEXT,
        "output_text.delta",
        *TEXT_END,
        *CALL,
        "function_call_arguments.delta",
        *CALL_END,
        *CALL,
        *CALL_END,
        "completed",
    ]
    added = [event for event in found if event["type"] == "response.output_item.added"]
    done = [event for event in found if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in added] == [0, 1, 2]
    assert [event["item"]["id"] for event in added] == [event["item"]["id"] for event in done]
    assert all(event["item"]["status"] == "in_progress" for event in added)
    response = found[-1]["response"]
    assert response["output"] == [event["item"] for event in done]
    message, first, second = response["output"]
    assert message["content"][0]["text"] == "Let me look."
    assert (first["call_id"], first["name"], first["arguments"]) == ("call_0", "find", '{"a":1}')
    assert (second["call_id"], second["name"], second["arguments"]) == ("call_1", "read", "{}")
    assert response["usage"]["input_tokens"] == 7
    assert response["usage"]["output_tokens"] == 3
    assert response["usage"]["total_tokens"] == 10
    for event in found:
        if "item_id" in event:
            assert event["item_id"] == response["output"][event["output_index"]]["id"]


def test_calls_in_one_chunk() -> None:
    parts = [json.loads(call(i, "{}", "f"))["choices"][0]["delta"]["tool_calls"] for i in (0, 1)]
    found = stream(payload({"tool_calls": parts[0] + parts[1]}), finish="tool_calls")
    assert [item["call_id"] for item in found[-1]["response"]["output"]] == ["call_0", "call_1"]


def test_what_is_cut_off_is_the_last_item() -> None:
    found = stream(text("x"), call(0, '{"a', "f"), finish="length")
    response = found[-1]["response"]
    assert kinds(found)[-1] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


def test_no_text_is_an_empty_message() -> None:
    found = stream()
    assert kinds(found) == [
        "created",
        "in_progress",
        *TEXT[:2],
        *TEXT_END,
        "completed",
    ]
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_log_probabilities() -> None:
    entry: dict[str, Any] = {"token": "ü", "bytes": None, "logprob": -0.5, "top_logprobs": []}
    found = stream(payload({"content": "ü"}, logprobs={"content": [entry]}))
    (delta,) = (event for event in found if event["type"] == "response.output_text.delta")
    part = found[-1]["response"]["output"][0]["content"][0]
    assert part["logprobs"] == delta["logprobs"] == [{**entry, "bytes": [195, 188]}]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError(502, "backend_incomplete", "It broke."), "server_error"),
        (ApiError(400, "context_length_exceeded", "Long.", param="input"), "invalid_prompt"),
        (unavailable("queue_timeout", "Too long.", retry_after=1), "server_error"),
    ],
)
def test_a_failure(error: ApiError, code: str) -> None:
    events_of = writer()
    # Only comments were sent until now: clients know the response first.
    first = events(events_of.failure(error))
    assert kinds(first) == ["created", "in_progress", "failed", "error"]
    events_of = writer()
    written = events_of.read(text("one")) + events_of.failure(error)
    found = events(written)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    failed, last = found[-2:]
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": code, "message": error.message}
    (item,) = failed["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "one")
    assert (last["code"], last["param"], last["error"]) == (
        error.code,
        error.param,
        error.body()["error"],
    )


def whole(message: dict[str, Any], finish: str) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    document = writer().whole({"choices": [choice], "usage": USAGE})
    Response.model_validate(document, strict=True)
    return document


def test_a_whole_answer() -> None:
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for i in range(2)
    ]
    document = whole({"role": "assistant", "content": "x", "tool_calls": calls}, "tool_calls")
    assert document["status"] == "completed"
    assert [item["type"] for item in document["output"]] == ["message", *["function_call"] * 2]
    document = whole({"role": "assistant", "content": None, "tool_calls": calls}, "length")
    assert [item["status"] for item in document["output"]] == ["completed", "incomplete"]
    document = whole({"role": "assistant", "content": ""}, "stop")
    assert document["output"][0]["content"][0]["text"] == ""
    assert document["usage"]["total_tokens"] == 10
