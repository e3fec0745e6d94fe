"""Tools that a model chooses by itself, with the openai package and a real model server."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion

from llamakit.smoke.model import write_smoke_model
from support.backend import running_backend
from support.models import SAY, tools_model
from support.proxy import Proxy

LOOK_UP: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "What a word means.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "pattern": r"^\w+$", "description": "It."}},
            "required": ["word"],
        },
    },
}
COUNT: Any = {"type": "function", "function": {"name": "count"}}
TOOLS = [LOOK_UP, COUNT]
DIALECTS = {"hermes": "hermes", "llama": "llama3", "mistral": "mistral"}


@pytest.fixture(scope="module", autouse=True)
def models(proxy: Proxy, models_folder: Path) -> Iterator[None]:
    with running_backend(tools_model(models_folder), n_ctx=2048) as backend:
        for name, dialect in DIALECTS.items():
            proxy.route(name, backend.url, tools=dialect)
        yield


@pytest.fixture(scope="module")
def obedient(models_folder: Path) -> Iterator[str]:
    """The built-in model ends what a schema demands as soon as it may; its server's url."""
    path = models_folder / "smoke.gguf"
    write_smoke_model(path)
    with running_backend(path) as backend:
        yield backend.url


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def ask(client: openai.AsyncOpenAI, text: str, *, stream: bool, **more: Any) -> Any:
    """The answer's choice; with ``stream`` put together by the client's own helper."""
    arguments: dict[str, Any] = {
        "model": text.split("-")[0],
        "messages": say(text),
        "tools": TOOLS,
        **more,
    }
    if not stream:
        return (await client.chat.completions.create(**arguments)).choices[0]
    async with client.chat.completions.stream(**arguments) as events:
        return (await events.get_final_completion()).choices[0]


def calls(choice: Any) -> list[tuple[str, Any]]:
    found = choice.message.tool_calls or []
    assert len({call.id for call in found}) == len(found)
    assert all(call.type == "function" for call in found)
    return [(call.function.name, json.loads(call.function.arguments)) for call in found]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_call_and_its_result(proxy: Proxy, key: str, dialect: str, stream: bool) -> None:
    async with proxy.openai(key) as client:
        choice = await ask(client, dialect, stream=stream)
        assert calls(choice) == [("look_up", {"word": "owl"})]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        conversation = [
            *say(dialect),
            choice.message.model_dump(exclude_unset=True),
            {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "a bird"},
        ]
        for call in conversation[1]["tool_calls"]:
            call["function"].pop("parsed_arguments", None)
        answer = await client.chat.completions.create(
            model=dialect, messages=conversation, tools=TOOLS
        )
    assert answer.choices[0].message.content == "An owl is a bird."
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_two_calls(proxy: Proxy, key: str, dialect: str, stream: bool) -> None:
    async with proxy.openai(key) as client:
        both = await ask(client, f"{dialect}-two", stream=stream)
        one = await ask(client, f"{dialect}-two", stream=stream, parallel_tool_calls=False)
        word = calls(both)[0][1]["word"]
        assert calls(both) == [("look_up", {"word": word}), ("count", {})]
        assert calls(one) == calls(both)[:1]
        assert both.message.content == ("Let me see." if dialect == "hermes" else None)
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "1"}
            for call in both.message.tool_calls
        ]
        sent = [
            {"id": call.id, "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
            for call, (n, a) in zip(both.message.tool_calls, calls(both), strict=True)
        ]
        asked = {"role": "assistant", "tool_calls": sent}
        conversation: list[Any] = [*say(f"{dialect}-two"), asked, *results]
        answer = await client.chat.completions.create(
            model=dialect, messages=conversation, tools=TOOLS
        )
    assert answer.choices[0].message.content == "An owl is a bird."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_is_no_call_is_text(proxy: Proxy, key: str, dialect: str, stream: bool) -> None:
    async with proxy.openai(key) as client:
        broken = await ask(client, f"{dialect}-broken", stream=stream)
        text = await ask(client, "hello", stream=stream, model=dialect)
        cut = await ask(client, dialect, stream=False, max_tokens=3)
        other = await ask(client, dialect, stream=stream, tools=[COUNT])
    assert broken.message.tool_calls is None
    assert broken.finish_reason == "stop"
    assert broken.message.content.endswith(("Sorry.", "no call.", "[1, 2]"))
    assert text.message.content == SAY
    assert (cut.message.tool_calls, cut.finish_reason) == (None, "length")
    assert "look_up" in other.message.content


async def test_the_stream_of_a_call(proxy: Proxy, key: str) -> None:
    async with proxy.openai(key) as client:
        stream = await client.chat.completions.create(
            model="hermes",
            messages=say("hermes-two"),
            tools=TOOLS,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    text = "".join(delta.content or "" for delta in deltas)
    assert text == "Let me see."
    found = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [call.index for call in found] == [0, 1]
    assert all(call.id and call.function and call.function.name for call in found)
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None


async def test_the_tools_are_in_the_prompt(proxy: Proxy, key: str) -> None:
    async with proxy.openai(key) as client:

        async def prompt_tokens(**more: Any) -> int:
            answer: ChatCompletion = await client.chat.completions.create(
                model="hermes", messages=say("hello"), max_tokens=1, **more
            )
            assert answer.usage is not None
            return answer.usage.prompt_tokens

        assert await prompt_tokens(tools=TOOLS) > await prompt_tokens(tools=[COUNT])
        assert await prompt_tokens(tools=TOOLS, tool_choice="none") == await prompt_tokens()


async def test_functions_of_old(proxy: Proxy, key: str) -> None:
    async with proxy.openai(key) as client:
        old: dict[str, Any] = {"functions": [LOOK_UP["function"], COUNT["function"]]}
        first = await client.chat.completions.create(
            model="hermes", messages=say("hermes-two"), **old
        )
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "function_call"
        assert message.tool_calls is None
        assert message.function_call is not None
        assert message.function_call.name == "look_up"
        conversation: list[Any] = [
            *say("hermes-two"),
            message.model_dump(exclude_unset=True),
            {"role": "function", "name": "look_up", "content": "a bird"},
        ]
        second = await client.chat.completions.create(model="hermes", messages=conversation, **old)
    assert second.choices[0].message.content == "An owl is a bird."


async def test_a_pydantic_tool(proxy: Proxy, key: str) -> None:
    class look_up(pydantic.BaseModel):  # noqa: N801  the tool has this name
        word: str

    async with proxy.openai(key) as client:
        answer = await client.chat.completions.parse(
            model="hermes", messages=say("hermes"), tools=[openai.pydantic_function_tool(look_up)]
        )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == look_up(word="owl")


async def test_a_format_and_a_choice_exclude_each_other(proxy: Proxy, key: str) -> None:
    async with proxy.openai(key) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, "hermes", stream=False, response_format={"type": "json_object"})
    assert "tool_choice" in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["hermes", "llama3"])
async def test_one_of_several_is_required(
    proxy: Proxy, key: str, obedient: str, dialect: str, stream: bool
) -> None:
    node = {
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
            }
        },
        "type": "object",
        "properties": {"node": {"$ref": "#/$defs/Node"}},
        "required": ["node"],
    }
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": node}} for name in "ab"
    ]
    await asyncio.to_thread(proxy.route, "able", obedient, tools=dialect)
    async with proxy.openai(key) as client:
        choice = await ask(
            client, "hello", stream=stream, model="able", tools=tools, tool_choice="required"
        )
    ((name, arguments),) = calls(choice)
    assert name in ("a", "b")
    assert set(arguments) == {"node"}
    assert choice.finish_reason == "tool_calls"
