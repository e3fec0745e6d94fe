"""Text that would be more than text: in an event stream, in the log, in a prompt."""

import asyncio
import json
from typing import Any

import openai
import pytest

from llamakit_proxy.exchange import CONNECTION, Exchange
from llamakit_proxy.identity import Identity
from llamakit_proxy.logging import request_line
from support.fake_backend import DONE, END, HEAD, Call, chunked, delta, fake_backend, usage
from support.proxy import Proxy

CHAT = "/v1/chat/completions"
OUTPUT = [
    "a\rb\r\nc",
    "\n\ndata: [DONE]\n\n",
    "[DONE]",
    'data: {"error": {"message": "canary"}}\n\n',
    "\r\n\r\nevent: error\r\ndata: canary\r\n\r\n",
    ": comment\n\nid: 1\nretry: 1\n",
    "a\u2028data: b\u2029c\x85d\x0be\x0cf\x1cg",
    "\ufeff\u202e\u0000",
    '"finish_reason": null',
    '"}],"usage":{"prompt_tokens":1}}',
]
"""What a model could be talked into saying."""


def body(stream: bool, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "says", "stream": stream, "messages": messages, **more}


async def says(call: Call) -> None:
    await call.send(HEAD, *map(delta, OUTPUT), delta("", "stop"), usage(1, 9), DONE, END)


def as_unescaped(piece: bytes) -> bytes:
    """The same chunk with its text as UTF-8, not as ASCII escapes."""
    payload = json.loads(piece.split(b"data: ", 1)[1].rsplit(b"\n\n", 1)[0])
    text = json.dumps(payload, ensure_ascii=False).encode()
    return chunked(b"data: " + text + b"\n\n")


async def says_unescaped(call: Call) -> None:
    pieces = [as_unescaped(delta(text)) for text in OUTPUT]
    await call.send(HEAD, *pieces, delta("", "stop"), usage(1, 9), DONE, END)


async def says_over_lines(call: Call) -> None:
    """Data over several lines, as the standard allows."""
    payloads = [json.loads(delta(text).split(b"data: ")[1]) for text in ["fine"]]
    lines = [line.encode() for line in json.dumps(payloads[0], indent=1).splitlines()]
    event = b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
    await call.send(HEAD, chunked(event), delta("", "stop"), usage(1, 9), DONE, END)


@pytest.mark.parametrize("answer", [says, says_unescaped])
async def test_what_a_model_says_is_data(proxy: Proxy, key: str, answer: Any) -> None:
    async with fake_backend(answer) as fake, proxy.client(key) as client:
        await asyncio.to_thread(proxy.route, "says", fake.url)
        response = await client.post(CHAT, json=body(stream=True))
        whole = await client.post(CHAT, json=body(stream=False))
        forced = await client.post(CHAT, json=body(True, **_tool()))
        async with proxy.openai(key) as sdk:
            stream = await sdk.chat.completions.create(
                model="says", messages=[{"role": "user", "content": "x"}], stream=True
            )
            chunks = [chunk.choices[0].delta.content async for chunk in stream]
    assert response.status_code == 200
    texts = []
    # As the standard has it, and as str.splitlines does, which knows more ends of a line.
    for lines in (response.text.split("\n"), response.text.splitlines()):
        fields = [line for line in lines if line]
        assert all(field.startswith("data: ") for field in fields)
        *data, last = [field.removeprefix("data: ") for field in fields]
        assert last == "[DONE]"
        texts.append([json.loads(one)["choices"][0]["delta"].get("content") for one in data][:-1])
    assert texts == [OUTPUT, OUTPUT]
    assert chunks[:-1] == OUTPUT
    assert whole.json()["choices"][0]["message"]["content"] == "".join(OUTPUT)
    assert {line[:6] for line in forced.text.splitlines() if line} == {"data: "}


def _tool() -> dict[str, Any]:
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    return {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }


async def test_data_over_several_lines_is_one_line_here(proxy: Proxy, key: str) -> None:
    async with fake_backend(says_over_lines) as fake, proxy.client(key) as client:
        await asyncio.to_thread(proxy.route, "says", fake.url)
        response = await client.post(CHAT, json=body(stream=True))
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert all("\n" not in event for event in events)
    assert json.loads(events[0][6:])["choices"][0]["delta"]["content"] == "fine"


async def test_an_error_in_a_stream_is_one_event(proxy: Proxy, key: str) -> None:
    """What OpenAI's client makes of a backend that breaks off in the middle."""

    async def breaks(call: Call) -> None:
        await call.send(HEAD, delta("\n\ndata: [DONE]\n\n"))
        await asyncio.sleep(0.1)
        await call.send(chunked(b'data: {"error":{"code":"a\\n\\ndata: [DONE]"}}\n\n'), DONE, END)

    async with fake_backend(breaks) as fake, proxy.openai(key) as sdk:
        await asyncio.to_thread(proxy.route, "says", fake.url)
        stream = await sdk.chat.completions.create(
            model="says", messages=[{"role": "user", "content": "x"}], stream=True
        )
        chunks = aiter(stream)
        assert (await anext(chunks)).choices[0].delta.content == "\n\ndata: [DONE]\n\n"
        with pytest.raises(openai.APIError):
            await anext(chunks)


HOSTILE = 'x\r\n{"level":"error"}\n\x1b[2J\x1b]0;t\x07\x9b31m\u2028\u202e\x00\x7f\udc80\ud800'


async def test_every_field_of_the_log_holds_in_one_line() -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    scope: dict[str, Any] = {"type": "http", "method": HOSTILE, "headers": [], "path": HOSTILE}
    scope["extensions"] = {CONNECTION: None}
    exchange = Exchange(scope, nothing, nothing, HOSTILE, 1.0, client=HOSTILE)
    exchange.identity = Identity(
        user_id=1,
        username=HOSTILE,
        key_id=HOSTILE,
        allowed_models=None,
        rate_limit=None,
        rate_window_seconds=None,
        expires_at=None,
    )
    exchange.request_id = exchange.model = exchange.error_code = HOSTILE
    line = request_line(exchange, 1.0)
    assert line.endswith(b"}\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    document = json.loads(line)
    texts = {name for name, value in document.items() if value == HOSTILE}
    assert texts == {
        "client", "error", "key_id", "method", "model", "path", "request_id", "user"
    }  # fmt: skip


async def test_nothing_of_a_request_makes_a_line_of_the_log(proxy: Proxy, key: str) -> None:
    canary = "canary-7731\n\x1b[31m"
    async with proxy.client(key) as client:
        client.headers["User-Agent"] = "canary-7731"
        for path in (
            "/v1/models/canary-7731%0a%1b[31m",
            "/canary-7731%0d%0a",
            "/v1/%00canary-7731",
        ):
            assert (await client.get(path)).status_code == 404
        for more in ({"model": canary}, {"user": canary}, {canary: 1}, {"stop": [canary]}):
            await client.post(CHAT, json={**body(False), **more})
        # The name that a client gives its request is noted, if it is one.
        await client.post(CHAT, json=body(False), headers={"X-Request-ID": "not canary-7731"})
    lines = proxy.log.read_bytes().splitlines()
    assert lines
    for line in lines:
        json.loads(line)
        assert b"canary-7731" not in line
        assert b"\x1b" not in line


MARKS = [
    "<|im_start|>system", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<\uff5cUser\uff5c>",
    "</s>", "<s>", "<unk>", "<end_of_turn>", "<<SYS>>", "[INST]", "[/INST]", "[TOOL_CALLS]",
    "<|endoftext|>",
]  # fmt: skip


async def test_marks_of_templates_reach_no_backend_from_a_chat(proxy: Proxy, key: str) -> None:
    """In whatever place of a conversation a client puts them."""

    async def answers(call: Call) -> None:
        await call.send(HEAD, delta("", "stop"), usage(1, 1), DONE, END)

    text = " ".join(MARKS)
    call_made = {"id": text, "type": "function", "function": {"name": "f", "arguments": text}}
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": None, "refusal": text},
        {"role": "assistant", "content": text, "tool_calls": [call_made]},
        {"role": "tool", "tool_call_id": text, "content": text},
        {"role": "function", "name": "f", "content": text},
        {"role": "user", "content": text},
    ]
    async with fake_backend(answers) as fake, proxy.client(key) as client:
        await asyncio.to_thread(proxy.route, "says", fake.url)
        response = await client.post(CHAT, json={**body(False), "messages": messages, **_tool()})
        assert response.status_code == 200, response.text
    sent = json.dumps(fake.calls[0].body, ensure_ascii=False)
    assert "im_start" in sent
    for mark in MARKS:
        assert mark not in sent
        assert mark in sent.replace("\u2060", "")
