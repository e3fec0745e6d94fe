"""The launcher and its patches, with the real server and real model files."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamakit.engines import Request, engines
from llamakit.models.gguf_header import read_header
from llamakit.smoke.model import TEXT, write_smoke_model
from support.models import SAY, SAY_TOKENS, embedding_model, script_model, sharded_model

KIT = Path(__file__).parents[3] / "files" / "kit" / "src"
KEY = "backend-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
pytest.importorskip("llama_cpp")


class Server:
    """A running model server."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.client = httpx.Client(base_url=url, headers=HEADERS, timeout=60)

    def chat(self, text: str = "hi", **more: Any) -> dict[str, Any]:
        response = self.client.post("/v1/chat/completions", json=body(text, **more))
        found: dict[str, Any] = response.json()
        return found

    def stream(self, text: str = "hi", **more: Any) -> list[dict[str, Any]]:
        """The events of a streamed chat, without the final [DONE], which must be there."""
        request = body(text, stream=True, **more)
        with self.client.stream("POST", "/v1/chat/completions", json=request) as response:
            lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def alive(self) -> bool:
        return self.process.poll() is None and "choices" in self.chat(max_tokens=1)


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 400, **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_config(folder: Path, model: Path, *, port: int | None = None, **more: Any) -> Path:
    """What the role writes: the plan's settings and the key, private to us."""
    engine = engines()["llama_cpp_python"]
    port = port or free_port()
    settings = engine.model_settings(
        Request(str(model), model.stem, "embed" in model.stem, 0, more, _header(model))
    )
    config = {**engine.server_settings("127.0.0.1", port), "api_key": KEY, "models": [settings]}
    file = folder / f"{model.stem}-{port}.json"
    file.write_text(json.dumps(config))
    file.chmod(0o600)
    return file


def _header(model: Path) -> Any:
    try:
        return read_header(model)
    except (OSError, ValueError):
        return None


def launch(config: Path, **environment: str) -> subprocess.Popen[bytes]:
    with config.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "llamakit.server.launch", str(config)],
            env={**os.environ, "PYTHONPATH": str(KIT), **environment},
            stdout=log,
            stderr=log,
        )


def start(config: Path, **environment: str) -> Server:
    process = launch(config, **environment)
    url = f"http://127.0.0.1:{json.loads(config.read_text())['port']}"
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/openapi.json", timeout=5)
            return Server(process, url, config.with_suffix(".log"))
        except httpx.TransportError:
            assert process.poll() is None, config.with_suffix(".log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def stop(server: Server) -> None:
    server.client.close()
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def script(folder: Path) -> Iterator[Server]:
    # Variables that would change or break the stock server.
    stray = {"SEED": "hello", "CACHE": "/var/cache", "PORT": "tcp://10.0.0.1:80", "HOST": "nowhere"}
    stray |= {"API_KEY": "other", "N_CTX": "111", "ROOT_PATH": "/x"}
    server = start(write_config(folder, script_model(folder)), **stray)
    yield server
    stop(server)


@pytest.fixture(scope="module")
def smoke(folder: Path) -> Iterator[Server]:
    path = folder / "smoke.gguf"
    write_smoke_model(path)
    server = start(write_config(folder, path, n_ctx=8192))
    yield server
    stop(server)


def test_it_serves_with_its_key_only_and_ignores_the_environment(script: Server) -> None:
    answer = script.chat()
    assert answer["choices"][0]["message"]["content"] == SAY
    assert httpx.post(f"{script.url}/v1/chat/completions", json=body("hi")).status_code == 401
    assert httpx.get(f"{script.url}/v1/models", headers=HEADERS).status_code == 200


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
    assert template == {"error": {"code": "generation_failed"}}
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
    assert response.json()["error"]["code"] in ("generation_failed", "invalid_grammar")
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


def test_token_ids_out_of_range_do_not_end_the_process(script: Server) -> None:
    for token in (-1, 10**6, 2**70):
        script.client.post("/extras/detokenize", json={"tokens": [token]})
    assert script.alive()


def test_any_request_id_is_accepted(script: Server) -> None:
    response = script.client.post(
        "/v1/chat/completions", json=body("hi"), headers={"X-Request-ID": "req_1"}
    )
    assert response.status_code == 200


def test_typical_p_is_a_parameter(script: Server) -> None:
    assert "choices" in script.chat(typical_p=0.5)
    assert "error" in script.chat(typical_p=7)


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


def test_a_sharded_model_is_loaded_by_its_first_file(folder: Path) -> None:
    server = start(write_config(folder, sharded_model(folder / "shards")))
    try:
        assert server.chat()["choices"][0]["message"]["content"] == SAY
    finally:
        stop(server)


def refused(config: Path) -> tuple[int, str]:
    process = launch(config)
    status = process.wait(60)
    return status, config.with_suffix(".log").read_text()


def test_a_config_that_others_can_read_is_refused(folder: Path) -> None:
    config = write_config(folder, script_model(folder))
    config.chmod(0o640)
    status, log = refused(config)
    assert status == 2
    assert f"chmod 600 {config}" in log
    assert KEY not in log


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interrupt_requests": True}, "interrupt_requests"),
        ({"models": []}, "lacks models"),
        ({"port": 0}, "lacks port"),
        ({"nonsense": 1}, "refuses its settings"),
    ],
)
def test_a_config_that_cannot_work_is_told(folder: Path, change: dict[str, Any], said: str) -> None:
    config = write_config(folder, script_model(folder))
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    status, log = refused(config)
    assert status == 2
    assert said in log
    assert KEY not in log
    assert "Traceback" not in log


def test_a_busy_port_is_told_before_the_model_is_loaded(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, log = refused(write_config(folder, script_model(folder), port=port))
    assert status == 3
    assert f"127.0.0.1:{port}" in log


def test_a_damaged_model_is_told(folder: Path) -> None:
    damaged = folder / "damaged.gguf"
    damaged.write_bytes(script_model(folder).read_bytes()[:-100])
    status, log = refused(write_config(folder, damaged))
    assert status == 4
    assert str(damaged) in log
    assert "Traceback" not in log


def test_the_smoke_model_says_what_it_is(smoke: Server) -> None:
    answer = smoke.chat("Who are you?")
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert "smoke model, not a real language model" in TEXT
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
