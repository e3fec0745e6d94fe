"""The openai package's ordinary uses, through the proxy to a real model server."""

import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from support.proxy import Proxy

FOX = "The quick brown fox jumps over one lazy dog."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "remember", "description": "Keep a person.", "parameters": SCHEMA},
}
FORCED: Any = {"type": "function", "function": {"name": "remember"}}


@pytest.fixture
async def client(proxy: Proxy, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with proxy.openai(key) as client:
        yield client


def say(text: str = "hello") -> list[Any]:
    return [{"role": "user", "content": text}]


async def test_list_and_retrieve(client: openai.AsyncOpenAI) -> None:
    listed = {model.id: model async for model in client.models.list()}
    assert set(listed) >= {"script", "embed"}
    model = await client.models.retrieve("script.gguf")
    assert (model.id, model.created, model.owned_by) == ("script", 1700000000, "llamakit")


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="script.gguf", messages=say())
    assert answer.choices[0].message.content == FOX
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "script"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 10


async def test_stream_says_the_same(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="script", messages=say())
    stream = await client.chat.completions.create(
        model="script", messages=say(), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    *parts, last = chunks
    assert "".join(part.choices[0].delta.content or "" for part in parts) == FOX
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].finish_reason for part in parts][-2:] == [None, "stop"]
    assert last.choices == []
    assert last.usage == whole.usage


async def test_stream_without_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="script", messages=say(), stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_several_bytes_per_character(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="script", messages=say("UTF8"))
    assert answer.choices[0].message.content == "Grüße 😀€ end"


async def test_empty_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="script", messages=say("EMPTY"))
    assert answer.choices[0].message.content == ""
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


async def test_max_tokens(client: openai.AsyncOpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        limit: Any = {name: 3}
        answer = await client.chat.completions.create(model="script", messages=say("LOOP"), **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3


async def test_stop(client: openai.AsyncOpenAI) -> None:
    for stream in (False, True):
        answer: Any = await client.chat.completions.create(
            model="script", messages=say(), stop=["fox"], stream=stream
        )
        if stream:
            parts = [part async for part in answer]
            text = "".join(part.choices[0].delta.content or "" for part in parts)
        else:
            text = answer.choices[0].message.content
        assert text == "The quick brown "


async def test_forced_tool(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="script", messages=say(), tools=[TOOL], tool_choice=FORCED, max_tokens=200
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "remember"
    assert set(json.loads(call.function.arguments)) == {"name", "age"}
    assert answer.usage is not None
    # The answer can be sent back as it came, with the tool's result.
    conversation = [
        *say(),
        choice.message.model_dump(exclude_unset=True),
        {"role": "tool", "tool_call_id": call.id, "content": "kept"},
    ]
    again = await client.chat.completions.create(
        model="script", messages=conversation, tools=[TOOL], tool_choice="none"
    )
    assert again.choices[0].message.content == FOX


async def test_forced_tool_as_a_stream(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="script",
        messages=say(),
        tools=[TOOL],
        tool_choice="required",
        max_tokens=200,
        stream_options={"include_usage": True},
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert call.function.name == "remember"
    assert set(json.loads(call.function.arguments)) == {"name", "age"}
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage is not None


async def test_a_call_that_is_cut_off_says_so(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="script", messages=say(), tools=[TOOL], tool_choice=FORCED, max_tokens=4
    )
    assert answer.choices[0].finish_reason == "length"


async def test_functions(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="script",
        messages=say(),
        functions=[TOOL["function"]],
        function_call={"name": "remember"},
        max_tokens=200,
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "function_call"
    assert message.tool_calls is None
    assert message.function_call is not None
    assert set(json.loads(message.function_call.arguments)) == {"name", "age"}


async def test_json_mode(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="script", messages=say("JSON"), response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content or "") == {"name": "Ada", "age": 36}


async def test_json_schema(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="script",
        messages=say(),
        max_tokens=200,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "strict": True, "schema": SCHEMA},
        },
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == {"name", "age"}


async def test_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="script", prompt="x<|say|>")
    assert answer.choices[0].text == FOX
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10
    stream = await client.completions.create(
        model="script",
        prompt=["once upon"],
        stream=True,
        max_tokens=4,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert text == "The quick brown fox"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_embeddings(client: openai.AsyncOpenAI, proxy: Proxy, key: str) -> None:
    # The client itself asks for base64 and unpacks it.
    packed = await client.embeddings.create(model="embed", input=["one", "two"])
    async with proxy.client(key) as http:
        plain = (
            await http.post("/v1/embeddings", json={"model": "embed", "input": ["one", "two"]})
        ).json()
        raw = await http.post(
            "/v1/embeddings",
            json={"model": "embed", "input": "one", "encoding_format": "base64"},
        )
    assert [item.index for item in packed.data] == [0, 1]
    for item, other in zip(packed.data, plain["data"], strict=True):
        assert len(item.embedding) == 64
        assert item.embedding == pytest.approx(other["embedding"], rel=1e-6)
    assert packed.usage.prompt_tokens == plain["usage"]["prompt_tokens"] > 0
    unpacked = struct.unpack("<64f", base64.b64decode(raw.json()["data"][0]["embedding"]))
    assert list(unpacked) == pytest.approx(plain["data"][0]["embedding"], rel=1e-6)


async def test_many_embeddings_keep_their_order(client: openai.AsyncOpenAI) -> None:
    texts = [f"text number {number}" for number in range(130)]
    many = await client.embeddings.create(model="embed", input=texts)
    last = await client.embeddings.create(model="embed", input=texts[-1])
    assert [item.index for item in many.data] == list(range(130))
    assert many.data[-1].embedding == pytest.approx(last.data[0].embedding, rel=1e-3, abs=1e-4)


async def test_embedding_that_is_too_long(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model="embed", input="word " * 2000)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_prompt_that_is_too_long(client: openai.AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="script", messages=say("word " * 5000), stream=stream
        )
    assert caught.value.code == "context_length_exceeded"
    assert "8192" in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
async def test_template_that_fails(client: openai.AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model="script", messages=say("FAIL"), stream=stream)
    assert caught.value.code == "unsupported_messages"
    assert "template refuses" not in str(caught.value)


async def test_seed_and_sampling_reach_the_model(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="script",
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}],
            },
        ],
        temperature=0,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=-7,
        logit_bias={"5": -100},
        n=1,
        user="someone",
        store=False,
        metadata={"a": "b"},
        parallel_tool_calls=False,
        extra_body={"top_k": 10, "min_p": 0.1, "typical_p": 0.9, "repeat_penalty": 1.1},
    )
    assert answer.choices[0].message.content == FOX


async def test_control_tokens_in_a_message_are_text(client: openai.AsyncOpenAI) -> None:
    async def prompt_tokens(text: str) -> int:
        answer = await client.chat.completions.create(
            model="script", messages=say(text), max_tokens=1
        )
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    mark, letters = "<|user|>", "abcdefgh"
    assert await prompt_tokens(mark) > await prompt_tokens(letters)


async def test_pieces_that_are_not_text(client: openai.AsyncOpenAI) -> None:
    for text, start in (("BAD8", "ok "), ("LONG", "Axxx")):
        whole = await client.chat.completions.create(model="script", messages=say(text))
        stream = await client.chat.completions.create(
            model="script", messages=say(text), stream=True
        )
        parts = [part.choices[0].delta.content or "" async for part in stream]
        assert "".join(parts) == whole.choices[0].message.content
        assert "".join(parts).startswith(start)
