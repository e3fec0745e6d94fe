"""The built-in smoke model, in the real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamakit.smoke.model import TEXT
from support.model_server import Server


def test_the_smoke_model_says_what_it_is(smoke: Server) -> None:
    answer = smoke.chat("Who are you?")
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert "smoke model, not a real language model" in TEXT
    assert TEXT.endswith("./console.sh start."), "restart does not take up a new model"
    completion = smoke.client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 400})
    assert completion.json()["choices"][0]["text"] == TEXT


def test_the_smoke_model_recites_under_any_sampling(smoke: Server) -> None:
    hot: dict[str, Any] = {
        "temperature": 2,
        "frequency_penalty": 2,
        "presence_penalty": 2,
        "repeat_penalty": 1.3,
    }
    assert smoke.chat(**hot)["choices"][0]["message"]["content"] == TEXT


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3},
        "age": {"type": "integer"},
        "score": {"type": "number"},
        "ok": {"type": "boolean"},
        "nothing": {"type": "null"},
        "colour": {"enum": ["red", 'a "quoted" \\ one']},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "inner": {"type": "object", "properties": {'q"': {"type": "string"}}, "required": ['q"']},
        "day": {"type": "string", "format": "date"},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "anything": {},
        "left_out": {"type": "string"},
    },
}
SCHEMA["required"] = [name for name in SCHEMA["properties"] if name != "left_out"]


@pytest.mark.parametrize("temperature", [0, 0.8, 2])
def test_the_smoke_model_gives_valid_json_quickly(smoke: Server, temperature: float) -> None:
    format_ = {"type": "json_object"}
    answer = smoke.chat(response_format=format_, temperature=temperature)
    assert answer["choices"][0]["message"]["content"] == "{}"
    answer = smoke.chat(response_format={**format_, "schema": SCHEMA}, temperature=temperature)
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert set(found) == set(SCHEMA["required"])
    assert len(found["name"]) == 3
    assert len(found["tags"]) == 2
    assert answer["usage"]["completion_tokens"] < 250


def test_the_smoke_model_fills_a_forced_tool(smoke: Server) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
        "required": ["city", "unit"],
    }
    function = {"name": "weather", "description": "d", "parameters": parameters}
    choice = {"type": "function", "function": {"name": "weather"}}
    request: dict[str, Any] = {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": choice,
    }
    call = smoke.chat(**request)["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather"
    assert json.loads(call["arguments"])["unit"] in ("c", "f")
    assert smoke.stream(**request)[-1]["usage"]["completion_tokens"] < 60


def test_the_smoke_model_takes_every_role(smoke: Server) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "22"},
        {"role": "user", "content": "q"},
    ]
    response = smoke.client.post(
        "/v1/chat/completions", json={"messages": messages, "max_tokens": 400}
    )
    assert response.json()["choices"][0]["message"]["content"] == TEXT
