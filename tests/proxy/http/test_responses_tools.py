"""Responses in which the model chooses its tools: the openai package and a real model server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from support.backend import running_backend
from support.models import tools_model
from support.proxy import Proxy

WORD = {
    "type": "object",
    "properties": {"word": {"type": "string"}},
    "required": ["word"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "name": "look_up", "parameters": WORD, "strict": True},
    {"type": "function", "name": "count", "parameters": None, "strict": False},
]

COLOURS = ["red", "green", "blue"]
PICK: Any = {
    "type": "function",
    "name": "pick",
    "parameters": {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": COLOURS}},
        "required": ["colour"],
        "additionalProperties": False,
    },
    "strict": True,
}
"""Its arguments have an end whatever a model writes."""


@pytest.fixture(scope="module", autouse=True)
def model(proxy: Proxy, models_folder: Path) -> Iterator[None]:
    with running_backend(tools_model(models_folder), n_ctx=2048) as backend:
        proxy.route("choosing", backend.url, tools="hermes")
        yield


async def ask(client: openai.AsyncOpenAI, items: list[Any], *, stream: bool, **more: Any) -> Any:
    arguments: Any = {"model": "choosing", "input": items, "tools": TOOLS, **more}
    if not stream:
        return await client.responses.create(**arguments)
    async with client.responses.stream(**arguments) as events:
        return await events.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
async def test_text_calls_and_their_results(proxy: Proxy, key: str, stream: bool) -> None:
    asked: list[Any] = [{"role": "user", "content": "hermes-two"}]
    async with proxy.openai(key) as client:
        answer = await ask(client, asked, stream=stream)
        assert answer.output_text == "Let me see."
        assert answer.status == "completed"
        kinds = [item.type for item in answer.output]
        assert kinds == ["message", "function_call", "function_call"]
        first, second = answer.output[1:]
        assert (first.name, second.name) == ("look_up", "count")
        assert set(json.loads(first.arguments)) == {"word"}
        assert len({item.id for item in answer.output}) == 3
        results = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "a bird"}
            for call in (first, second)
        ]
        after = await ask(client, [*asked, *answer.output, *results], stream=stream)
        assert after.output_text == "An owl is a bird."
        one = await ask(client, asked, stream=stream, parallel_tool_calls=False)
        assert [item.type for item in one.output] == ["message", "function_call"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_of_tools(proxy: Proxy, key: str, stream: bool) -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "pick"}],
    }
    asked = [{"role": "user", "content": "hermes"}]
    tools = [*TOOLS, PICK]
    async with proxy.openai(key) as client:
        answer = await ask(client, asked, stream=stream, tools=tools, tool_choice=allowed)
    (call,) = answer.output
    assert call.name == "pick"
    assert json.loads(call.arguments)["colour"] in COLOURS
