"""The endpoint that console.sh started, as OpenAI's client and as curl see it."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest

from support.checkout import Checkout
from support.models import SAY, SAY_TOKENS
from support.processes import wait_for

CANARY = "canary-prompt-7c1e"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def key(with_models: Checkout) -> str:
    return with_models.new_key("ada", "--rate-limit", "0")


@pytest.fixture
def client(three: Checkout, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{three.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def ask(text: str = "hello") -> list[Any]:
    return [{"role": "user", "content": text}]


def test_every_model_is_listed(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"script", "embed", "shard"}
    assert client.models.retrieve("script.gguf").id == "script"


@pytest.mark.parametrize("model", ["script", "script.gguf", "shard"])
def test_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=ask())
    assert answer.choices[0].message.content == SAY
    assert answer.usage is not None
    assert answer.usage.completion_tokens == SAY_TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + SAY_TOKENS


def test_stream_with_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="script", messages=ask())
    *parts, last = client.chat.completions.create(
        model="script", messages=ask(), stream=True, stream_options={"include_usage": True}
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts) == SAY
    assert last.usage == whole.usage


def test_forced_tool(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "remember", "parameters": SCHEMA}}
    answer = client.chat.completions.create(
        model="script",
        messages=ask(),
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "remember"}},
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "remember"
    assert set(json.loads(call.function.arguments)) == {"name", "age"}


@pytest.mark.parametrize(
    ("format_", "keys"),
    [
        ({"type": "json_object"}, {"name", "age"}),
        ({"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}, {"name", "age"}),
    ],
)
def test_json(client: openai.OpenAI, format_: Any, keys: set[str]) -> None:
    answer = client.chat.completions.create(
        model="script", messages=ask("JSON"), response_format=format_
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == keys


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="embed", input=["one", "two words"])
    assert [len(item.embedding) for item in answer.data] == [64, 64]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


# --- who and what is refused ---------------------------------------------------------------------


def status_of(checkout: Checkout, key: str | None) -> httpx.Response:
    with checkout.client(key) as client:
        return client.get("/v1/models")


def refused(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Checks the status and the shape of an OpenAI error; returns it."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code
    return error


def chat(checkout: Checkout, key: str, **body: Any) -> httpx.Response:
    with checkout.client(key) as client:
        return client.post(
            "/v1/chat/completions", json={"model": "script", "messages": ask(), **body}
        )


def gets_refused(checkout: Checkout, key: str) -> None:
    """Within a second the key is good for nothing; the measuring machine gets a little more."""
    wait_for(lambda: status_of(checkout, key).status_code == 401, 3, "the key is refused")


def test_no_key_and_wrong_keys(three: Checkout, key: str) -> None:
    for wrong in (None, "sk-lk-nonsense", key[:-1] + ("a" if key[-1] != "a" else "b")):
        answer = status_of(three, wrong)
        refused(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_disabled_revoked_and_expired_keys(three: Checkout) -> None:
    key = three.new_key("bob")
    assert status_of(three, key).status_code == 200
    three.console("user", "disable", "bob")
    gets_refused(three, key)
    three.console("user", "enable", "bob")
    wait_for(lambda: status_of(three, key).status_code == 200, 3, "the key is good again")
    public = json.loads(three.console("user", "show", "bob", "--json").out)["keys"][0]["public_id"]
    three.console("user", "revoke", "--key", public)
    gets_refused(three, key)
    short = three.new_key("carl", "--expires", "2s")
    assert status_of(three, short).status_code == 200
    wait_for(lambda: status_of(three, short).status_code == 401, 6, "the key expires")
    refused(status_of(three, short), 401)


def test_rotation_keeps_the_user(three: Checkout) -> None:
    old = three.new_key("dora")
    new = three.console("user", "rotate", "dora", "--overlap", "0s").out.strip()
    assert status_of(three, new).status_code == 200
    gets_refused(three, old)


def test_a_model_that_is_not_allowed(three: Checkout) -> None:
    key = three.new_key("eve", "--models", "embed")
    refused(chat(three, key), 403)
    with three.client(key) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["embed"]


def test_a_model_that_is_not_there(three: Checkout, key: str) -> None:
    refused(chat(three, key, model="nosuch"), 404, "model_not_found")


def test_the_rate_limit(three: Checkout) -> None:
    key = three.new_key("fred", "--rate-limit", "2", "--rate-window", "60")
    answers = [status_of(three, key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    refused(answers[2], 429)
    # A place frees at most a sixty-fourth of the window late.
    assert 0 < int(answers[2].headers["retry-after"]) <= 61


def test_malformed_and_oversized_bodies(three: Checkout, key: str) -> None:
    with three.client(key) as client:
        headers = {"Content-Type": "application/json"}
        path = "/v1/chat/completions"
        refused(client.post(path, content=b'{"model": ', headers=headers), 400)
        refused(client.post(path, json={"model": "script"}), 400)
        refused(client.post(path, content=b" " * 3_000_000, headers=headers), 413)
    refused(chat(three, key, temperature="hot"), 400)


def test_a_stopped_model_server_is_a_503(three: Checkout, key: str) -> None:
    supervisorctl(three, "stop", "llama-script")
    refused(chat(three, key), 503)
    assert chat(three, key, model="shard").status_code == 200, "the others go on"
    supervisorctl(three, "start", "llama-script")
    wait_for(lambda: chat(three, key).status_code == 200, 20, "the model answers again")


def supervisorctl(checkout: Checkout, *arguments: str) -> None:
    """supervisord's own command: stops a service without the kit knowing."""
    runtime = checkout.path / "runtime"
    (python,) = runtime.glob("supervisor/*/bin/python")
    config = ["-m", "supervisor.supervisorctl", "-c", str(runtime / "supervisord.conf")]
    run = checkout.run([str(python), *config, *arguments])
    assert run.code == 0, run.screen


# --- what must not be seen -----------------------------------------------------------------------


def test_no_prompt_key_or_password_is_seen_anywhere(three: Checkout, key: str) -> None:
    assert chat(three, key, messages=ask(CANARY)).status_code == 200
    chat(three, key, messages=ask(CANARY), temperature="hot")
    chat(three, key, messages=ask(CANARY), model="nosuch")
    canaries = [CANARY, key, key.rpartition("-")[2]]
    runtime = three.path / "runtime"
    canaries += [path.read_text().strip() for path in (three.path / "data" / "secrets").iterdir()]
    seen = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    seen.append(subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout)
    files = [*(three.path / "logs").iterdir(), *runtime.glob("*.*"), *runtime.glob("*.d/*")]
    files += runtime.glob("releases/*/*.env")
    seen += [path.read_text(errors="replace") for path in files if path.is_file()]
    for canary in canaries:
        assert not [text[:80] for text in seen if canary in text], f"{canary[:20]}… is to be seen"


# --- several users at once -----------------------------------------------------------------------


def test_two_streams_at_once_are_both_whole(three: Checkout, key: str) -> None:
    other = three.new_key("gina", "--rate-limit", "0")
    texts: dict[str, str] = {}

    def stream(who: str) -> None:
        with openai.OpenAI(base_url=f"{three.url}/v1", api_key=who, max_retries=0) as client:
            parts = client.chat.completions.create(
                model="script", messages=ask("LOOP"), max_tokens=300, stream=True
            )
            texts[who] = "".join(part.choices[0].delta.content or "" for part in parts)

    threads = [threading.Thread(target=stream, args=(who,)) for who in (key, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(texts[who].split()) for who in (key, other)] == [300, 300]


def test_a_user_who_leaves_frees_the_model(three: Checkout, key: str) -> None:
    body = {"model": "script", "messages": ask("LOOP"), "stream": True, "max_tokens": 2000}
    with three.client(key) as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if "tick" in line:
                    break
        left = time.monotonic()
        assert chat(three, key).status_code == 200
    # A second is asked for; the rest is for the machine that measures.
    assert time.monotonic() - left < 3
