"""What the patches change in llama-cpp-python, with the real server."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import jinja2
import pytest
from llama_cpp import llama_chat_format

from llamakit_server import patches
from support.model_server import KEY, Server, body, start, stop, write_config
from support.models import SAY_TOKENS, embedding_model, script_model


def test_a_stream_ends_with_the_usage_that_a_plain_answer_has(script: Server) -> None:
    for text in ("hi", "UTF8", "BAD8", "EMPTY", "LONG", "JSON"):
        plain = script.chat(text)["usage"]
        events = script.stream(text)
        assert events[-1]["usage"] == plain, text
        assert events[-1]["choices"] == []
        assert all("usage" not in event for event in events[:-1])
    assert script.stream("LOOP", max_tokens=7)[-1]["usage"]["completion_tokens"] == 7
    stopped = script.stream(stop=["jumps"])
    assert stopped[-1]["usage"] == script.chat(stop=["jumps"])["usage"]


def test_raw_completions_have_usage_too(script: Server) -> None:
    request = {"prompt": "Once", "max_tokens": 50, "stream": True}
    with script.client.stream("POST", "/v1/completions", json=request) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    assert json.loads(lines[-1][6:])["usage"]["completion_tokens"] == SAY_TOKENS


def test_long_pieces_are_kept(script: Server) -> None:
    answer = script.chat("LONG")["choices"][0]["message"]["content"]
    assert answer == "A" + "x" * 40 + "Z tail"


def test_errors_in_a_stream_are_events_without_text_of_the_request(script: Server) -> None:
    (overflow,) = script.stream("secret " * 2000)
    assert overflow["error"]["code"] == "context_length_exceeded"
    assert overflow["error"]["prompt_tokens"] > overflow["error"]["n_ctx"] == 4096
    (template,) = script.stream("FAIL")
    assert template == {"error": {"code": "template_failed"}}
    (grammar,) = script.stream(grammar="root ::= (")
    assert grammar == {"error": {"code": "invalid_grammar"}}
    assert "secret" not in script.log.read_text()


@pytest.mark.parametrize(
    "request_",
    [
        {"messages": [{"role": "secret-role", "content": "secret"}]},
        {"messages": [{"role": "user", "content": "secret"}], "top_p": "secret"},
        {"messages": [{"role": "user", "content": "secret"}], "grammar": "secret ("},
        {"messages": [{"role": "user", "content": "secret FAIL"}]},
    ],
)
def test_what_users_send_is_neither_logged_nor_sent_back(
    script: Server, request_: dict[str, Any]
) -> None:
    response = script.client.post("/v1/chat/completions", json=request_)
    assert response.status_code == 500
    assert response.json()["error"]["code"] in (
        "generation_failed",
        "invalid_grammar",
        "template_failed",
    )
    script.client.post("/v1/chat/completions", content=b'{"secret')
    for text in (response.text, script.log.read_text()):
        assert "secret" not in text
        assert "Traceback" not in text


STRING_OF_3 = {"type": "string", "pattern": r"^\d{3}$"}


@pytest.mark.parametrize(
    "request_",
    [
        {"grammar": "root ::= ("},
        {"grammar": "nothing ::= 'a'"},
        {"grammar": "root ::= root"},
        {"grammar": "root ::= undefined"},
        {"grammar": "root ::= " + "(" * 100_000},
        {"grammar": 'root ::= "a"', "min_tokens": 5},
        {"response_format": {"type": "json_object"}, "min_tokens": 50},
        {"response_format": {"type": "json_object", "schema": {"properties": {"a": STRING_OF_3}}}},
        {"response_format": {"type": "json_object", "schema": {"enum": ["\0"]}}},
        {
            "response_format": {
                "type": "json_object",
                "schema": {"type": "string", "maxLength": 10**6},
            }
        },
    ],
    ids=lambda request: json.dumps(request)[:50],
)
def test_no_single_request_ends_the_process(script: Server, request_: dict[str, Any]) -> None:
    script.chat(**request_)
    script.stream(**request_)
    assert script.alive()


FORBIDDEN = [*range(0x20), 0x7F]


def byte_bias(values: list[int], bias: int = 100) -> dict[str, int]:
    """Biases that make these bytes the likeliest tokens; ids 0 to 2 are no bytes."""
    return {str(3 + value): bias for value in values}


@pytest.mark.parametrize("more", [{}, {"maxLength": 8}, {"minLength": 4, "maxLength": 8}])
def test_a_string_under_a_schema_has_no_control_characters(
    script: Server, more: dict[str, Any]
) -> None:
    format_ = {"type": "json_object", "schema": {"type": "string", **more}}
    answer = script.chat(response_format=format_, logit_bias=byte_bias(FORBIDDEN), max_tokens=30)
    content = answer["choices"][0]["message"]["content"]
    # After the closing quote, the grammar allows white space.
    text = content[: content.rindex('"')] if content.count('"') > 1 else content
    assert not any(ord(character) in FORBIDDEN for character in text), content


def test_a_string_under_a_schema_may_have_escapes(script: Server) -> None:
    schema = {"type": "string", "minLength": 2, "maxLength": 2}
    answer = script.chat(
        response_format={"type": "json_object", "schema": schema},
        logit_bias={**byte_bias([ord("\\")]), **byte_bias([ord('"')], 90)},
        max_tokens=30,
    )
    assert json.loads(answer["choices"][0]["message"]["content"]) == "\\\\"


def test_biases_for_unknown_tokens_are_dropped_and_the_others_apply(script: Server) -> None:
    letter = script.client.post("/extras/tokenize", json={"input": "q"}).json()["tokens"][-2]
    biases = {"1000000": 100, "-1": 100, str(letter): 100, "50256": -100}
    answer = script.chat(logit_bias=biases, max_tokens=5)
    assert answer["choices"][0]["message"]["content"] == "qqqqq"
    events = script.stream(logit_bias=biases, max_tokens=5)
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])
    assert text == "qqqqq"
    for error in ("Traceback", "IndexError", "ctypes"):
        assert error not in script.log.read_text()


def test_token_ids_out_of_range_do_not_end_the_process(script: Server) -> None:
    for token in (-1, 10**6, 2**70):
        script.client.post("/extras/detokenize", json={"tokens": [token]})
    assert script.alive()


def test_any_request_id_is_accepted(script: Server) -> None:
    response = script.client.post(
        "/v1/chat/completions", json=body("hi"), headers={"X-Request-ID": "req_1"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_for_another_model_is_refused(script: Server, path: str, stream: bool) -> None:
    asked: dict[str, Any] = {
        "chat/completions": {**body("hi"), "stream": stream},
        "completions": {"prompt": "Once", "stream": stream},
        "embeddings": {"input": "Once"},
    }[path]
    response = script.client.post(f"/v1/{path}", json={**asked, "model": "secret-other"})
    assert response.status_code == 404, response.text
    assert response.json()["error"] == {
        "message": "This server has the model script and no other.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert "has the model script" in script.log.read_text()
    assert "secret-other" not in script.log.read_text()
    keyless = httpx.post(f"{script.url}/v1/{path}", json={**asked, "model": "secret-other"})
    assert keyless.status_code == 401
    assert "choices" in script.chat(model="script")
    assert "choices" in script.chat(model=None)


def test_typical_p_is_a_parameter(script: Server) -> None:
    assert "choices" in script.chat(typical_p=0.5)
    assert "error" in script.chat(typical_p=7)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ call.arguments | tojson }}", '{"a": 1}'),
        ("{{ '<' + call.arguments + '>' }}", '<{"a": 1}>'),
    ],
)
def test_arguments_are_objects_unless_a_template_wants_text(
    monkeypatch: pytest.MonkeyPatch, template: str, text: str
) -> None:
    formatter = llama_chat_format.Jinja2ChatFormatter
    monkeypatch.setattr(formatter, "__call__", formatter.__call__)
    patches.render_calls()
    looked_up = "{% set call = messages[0].tool_calls[0].function %}"
    function = {"name": "f", "arguments": '{"a": 1}'}
    call = {"id": "x", "type": "function", "function": function}
    message: Any = {"role": "assistant", "content": "", "tool_calls": [call]}
    render = formatter(template=looked_up + template, eos_token="", bos_token="")
    assert render(messages=[message]).prompt == text
    broken = formatter(template="{{ messages[0].content.nothing() }}", eos_token="", bos_token="")
    with pytest.raises(jinja2.TemplateError):
        broken(messages=[message])


def test_a_reader_that_stalls_blocks_nobody_and_not_the_end(folder: Path) -> None:
    server = start(write_config(folder, script_model(folder), n_ctx=8192))
    try:
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", httpx.URL(server.url).port))
            content = json.dumps(body("LOOP", stream=True, max_tokens=3000)).encode()
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json"
                f"\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            stalled.sendall(head.encode() + content)
            time.sleep(0.5)
            assert "choices" in server.chat()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)
    finally:
        stop(server)


def test_embeddings_refuse_what_they_would_cut(folder: Path) -> None:
    server = start(write_config(folder, embedding_model(folder)))
    try:
        short = server.client.post("/v1/embeddings", json={"input": ["one", "two"]})
        assert [len(item["embedding"]) for item in short.json()["data"]] == [64, 64]
        assert server.client.post("/v1/embeddings", json={"input": "x" * 1500}).status_code == 200
        assert server.client.post("/v1/embeddings", json={"input": "x" * 3000}).status_code == 500
    finally:
        stop(server)
