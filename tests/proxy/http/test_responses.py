"""The openai package's responses, through the proxy to a real model server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from support.proxy import Proxy

PATH = "/v1/responses"
FOX = "The quick brown fox jumps over one lazy dog."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "name": "remember", "parameters": SCHEMA, "strict": True}
FORCED: Any = {"type": "function", "name": "remember"}
EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
MESSAGE = ["response.output_item.added", "response.content_part.added"]
MESSAGE_END = [
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


class Person(pydantic.BaseModel):
    name: Literal["Ada", "Bob"]
    age: int


@pytest.fixture
async def client(proxy: Proxy, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with proxy.openai(key) as client:
        yield client


@pytest.fixture
async def http(proxy: Proxy, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with proxy.client(key) as client:
        yield client


def events(text: str) -> list[dict[str, Any]]:
    """A stream's events, each as strict as the openai package knows it, in their order."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event, strict=True)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def lasting(response: dict[str, Any]) -> dict[str, Any]:
    """What two responses to one request have in common."""
    output = [{**item, "id": None, "call_id": None} for item in response["output"]]
    return {**response, "id": None, "created_at": 0, "completed_at": 0, "output": output}


async def test_text(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(
        model="script.gguf",
        input="hello",
        instructions="Be brief.",
        metadata={"team": "red"},
        temperature=0.5,
    )
    assert answer.output_text == FOX
    assert (answer.status, answer.model, answer.error) == ("completed", "script", None)
    assert answer.id.startswith("resp_")
    (message,) = answer.output
    assert message.type == "message"
    assert message.id.startswith("msg_")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 10
    assert answer.usage.total_tokens == answer.usage.input_tokens + 10
    assert answer.metadata == {"team": "red"}
    assert (answer.instructions, answer.temperature, answer.top_p) == ("Be brief.", 0.5, 0.95)
    assert answer.to_dict()["store"] is False


@pytest.mark.parametrize(
    ("text", "status"), [("hello", "completed"), ("EMPTY", "completed"), ("LOOP", "incomplete")]
)
async def test_every_event_and_the_whole(http: httpx.AsyncClient, text: str, status: str) -> None:
    body = {"model": "script", "input": text, "max_output_tokens": 40}
    whole = (await http.post(PATH, json=body)).json()
    Response.model_validate(whole, strict=True)
    streamed = await http.post(PATH, json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in streamed.text
    found = events(streamed.text)
    kinds = [event["type"] for event in found]
    deltas = [event["delta"] for event in found if event["type"] == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        *MESSAGE,
        *["response.output_text.delta"] * len(deltas),
        *MESSAGE_END,
        f"response.{status}",
    ]
    last = found[-1]["response"]
    assert lasting(last) == lasting(whole)
    assert last["status"] == status
    assert {event["response"]["id"] for event in found if "response" in event} == {last["id"]}
    (item,) = last["output"]
    assert item["status"] == status
    assert item["content"][0]["text"] == "".join(deltas)
    assert {event["item_id"] for event in found if "item_id" in event} == {item["id"]}
    if status == "incomplete":
        assert last["incomplete_details"] == {"reason": "max_output_tokens"}
        assert last["usage"]["output_tokens"] == 40


async def test_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="script", input="hello", stream=True)
    found = [event async for event in stream]
    assert "".join(e.delta for e in found if e.type == "response.output_text.delta") == FOX
    assert found[-1].type == "response.completed"
    assert found[-1].response.output_text == FOX


async def test_stream_helper(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="script", input="UTF8") as stream:
        snapshots = [e.snapshot async for e in stream if e.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert final.output_text == snapshots[-1] == "Grüße 😀€ end"
    assert final.usage is not None


async def test_parse(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.parse(
        model="script", input="hello", text_format=Person, max_output_tokens=200
    )
    assert isinstance(answer.output_parsed, Person)
    async with client.responses.stream(
        model="script", input="hello", text_format=Person, max_output_tokens=200
    ) as stream:
        final = await stream.get_final_response()
    assert isinstance(final.output_parsed, Person)
    form = await client.responses.create(
        model="script", input="JSON", text={"format": {"type": "json_object"}}
    )
    assert json.loads(form.output_text) == {"name": "Ada", "age": 36}


async def test_forced_function_and_its_result(client: openai.AsyncOpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "hello"}]
    answer = await client.responses.create(
        model="script", input=asked, tools=[TOOL], tool_choice=FORCED, max_output_tokens=200
    )
    (call,) = answer.output
    assert call.type == "function_call"
    assert (call.name, call.status) == ("remember", "completed")
    assert Person.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "kept"}
    # The items go back as they came, also as documents.
    sent: list[list[Any]] = [[*answer.output], [item.to_dict() for item in answer.output]]
    for items in sent:
        asked = [*asked, *items, result]
        again = await client.responses.create(
            model="script", input=asked, tools=[TOOL], tool_choice="none"
        )
        assert again.output_text == FOX
        asked = [*asked, *again.output]
    once_more = await client.responses.create(
        model="script", input=[*asked, {"role": "user", "content": "UTF8"}]
    )
    assert once_more.output_text == "Grüße 😀€ end"


async def test_forced_function_as_a_stream(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    body: dict[str, Any] = {
        "model": "script",
        "input": "hello",
        "tools": [TOOL],
        "tool_choice": "required",
        "max_output_tokens": 200,
    }
    found = events((await http.post(PATH, json={**body, "stream": True})).text)
    kinds = [event["type"] for event in found]
    deltas = [e["delta"] for e in found if e["type"] == "response.function_call_arguments.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * len(deltas),
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert len(deltas) > 1
    assert found[2]["item"]["arguments"] == ""
    (item,) = found[-1]["response"]["output"]
    assert item["arguments"] == "".join(deltas)
    async with client.responses.stream(**body) as stream:
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert call.parsed_arguments == json.loads(call.arguments)


async def test_a_call_that_is_cut_off_says_so(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(
        model="script", input="hello", tools=[TOOL], tool_choice=FORCED, max_output_tokens=4
    )
    assert (answer.status, answer.output[0].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_does_not_fit_is_the_input(
    client: openai.AsyncOpenAI, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="script", input="word " * 5000, stream=stream)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


async def test_what_needs_a_store(client: openai.AsyncOpenAI) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"prompt": {"id": "pmpt_1"}},
        {"tools": [{"type": "web_search"}]},
    )
    for more in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="script", input="hello", **more)
        assert caught.value.code == "unsupported_parameter"
    for work in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="not stored"):
            await work("resp_1")
    with pytest.raises(openai.NotFoundError, match="not stored"):
        await client.responses.input_items.list("resp_1")


async def test_the_method(http: httpx.AsyncClient) -> None:
    response = await http.get(PATH)
    assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")


async def test_one_row_each(proxy: Proxy) -> None:
    async with proxy.client(proxy.new_key("responding")) as http:
        for stream in (False, True):
            body = {"model": "script.gguf", "input": "hello", "stream": stream}
            assert (await http.post(PATH, json=body)).status_code == 200
    deadline = time.monotonic() + 10
    rows: list[dict[str, Any]] = []
    while len(rows) < 2:
        assert time.monotonic() < deadline
        found = await asyncio.to_thread(proxy.rows)
        rows = [row for row in found if str(row["username"]).startswith("responding")]
    assert [row["stream"] for row in rows] == [False, True]
    for row in rows:
        assert (row["path"], row["status_code"], row["model"]) == (PATH, 200, "script")
        assert row["completion_tokens"] == 10
        assert row["prompt_tokens"] > 0
        assert row["ttft_ms"] > 0
