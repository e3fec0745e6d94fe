"""What programs use of the openai package beside plain answers: parsing, raw answers, errors."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from support.fake_backend import DONE, END, HEAD, Call, delta, fake_backend, usage
from support.models import SAY
from support.proxy import Proxy


class Person(BaseModel):
    """What the scripted model recites as JSON."""

    name: str
    age: int


ADA = Person(name="Ada", age=36)


def connect(proxy: Proxy, key: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=key, **{"max_retries": 0, **options})


@pytest.fixture
def client(proxy: Proxy, key: str) -> Iterator[openai.OpenAI]:
    with connect(proxy, key) as client:
        yield client


def say(text: str = "hello") -> list[Any]:
    return [{"role": "user", "content": text}]


def test_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} >= {"script", "embed"}
    assert client.models.retrieve("script.gguf").id == "script"


def test_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="script", messages=say(), stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == SAY


def test_a_stream_that_is_left(client: openai.OpenAI, proxy: Proxy) -> None:
    with client.chat.completions.create(
        model="script", messages=say("LOOP"), max_tokens=7000, stream=True
    ) as stream:
        next(iter(stream))
    # The one place is free again: this would wait for thousands of tokens otherwise.
    answer = client.with_options(timeout=20).chat.completions.create(model="script", messages=say())
    assert answer.choices[0].message.content == SAY


def test_parsed_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="script", messages=say("JSON"), response_format=Person, n=2
    )
    assert [choice.message.parsed for choice in answer.choices] == [ADA, ADA]
    with client.chat.completions.stream(
        model="script", messages=say("JSON"), response_format=Person
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.parsed == ADA
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="script", messages=say("JSON"), response_format=Person, max_completion_tokens=3
        )


def test_raw_answers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="script", messages=say())
    assert raw.headers["x-request-id"] == raw.request_id
    assert raw.headers["content-type"] == "application/json"
    answer = raw.parse()
    assert answer.choices[0].message.content == SAY
    assert answer._request_id == raw.request_id
    with client.chat.completions.with_streaming_response.create(
        model="script", messages=say()
    ) as streamed:
        assert b"brown" in b"".join(streamed.iter_bytes())
    error = refusal(client, model="nothing")
    assert error.request_id == error.response.headers["x-request-id"]


def test_a_raw_answer_has_the_rate_limit(proxy: Proxy) -> None:
    with connect(proxy, proxy.new_key(rate_limit=5)) as client:
        raw = client.models.with_raw_response.list()
    assert raw.headers["x-ratelimit-limit-requests"] == "5"
    assert raw.headers["x-ratelimit-remaining-requests"] == "4"


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings(client: openai.OpenAI, encoding: Any) -> None:
    more = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="embed", input=["one", "two"], **more)
    assert [item.index for item in answer.data] == [0, 1]
    if encoding == "base64":
        assert all(isinstance(item.embedding, str) for item in answer.data)
    else:
        assert all(len(item.embedding) == 64 for item in answer.data)


def refusal(client: openai.OpenAI, **more: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{"model": "script", "messages": say(), **more})
    assert caught.value.message
    assert caught.value.code
    return caught.value


def test_errors_have_their_classes(proxy: Proxy, key: str) -> None:
    with connect(proxy, key) as client:
        bad = refusal(client, temperature=3)
        assert type(bad) is openai.BadRequestError
        assert (bad.param, bad.type) == ("temperature", "invalid_request_error")
        missing = refusal(client, model="gpt-4o")
        assert type(missing) is openai.NotFoundError
        assert missing.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4o")
        with pytest.raises(openai.NotFoundError):
            client.moderations.create(input="x")
    with connect(proxy, "sk-lk-wrong") as client:
        assert type(refusal(client)) is openai.AuthenticationError
    with connect(proxy, proxy.new_key(allowed_models=["embed"])) as client:
        assert type(refusal(client)) is openai.PermissionDeniedError
        assert [model.id for model in client.models.list()] == ["embed"]
    with connect(proxy, proxy.new_key(rate_limit=1)) as client:
        client.models.list()
        limited = refusal(client)
    assert type(limited) is openai.RateLimitError
    assert int(limited.response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "more",
    [
        {"n": 9},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
        {"response_format": {"type": "xml"}},
        {"modalities": ["text", "audio"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"extra_body": {"foo": 1}},
    ],
)
def test_what_does_not_work_is_refused(client: openai.OpenAI, more: dict[str, Any]) -> None:
    assert type(refusal(client, **more)) is openai.BadRequestError


async def test_a_failure_is_tried_again(proxy: Proxy, key: str) -> None:
    async def fail_once(call: Call) -> None:
        if len(fake.calls) == 1:
            await call.send(b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n")
        else:
            await call.send(HEAD, delta("at last"), delta("", "stop"), usage(1, 1), DONE, END)

    async with fake_backend(fail_once) as fake, proxy.openai(key) as client:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        patient = client.with_options(max_retries=2)
        answer = await patient.chat.completions.create(model="fake", messages=say())
        assert answer.choices[0].message.content == "at last"
        fake.calls.clear()
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="fake", messages=say())
    assert (caught.value.status_code, caught.value.code) == (502, "backend_error")


async def test_a_mistake_is_not_tried_again(proxy: Proxy) -> None:
    """The template's refusal is the conversation's fault: it would fail three times."""
    key = await asyncio.to_thread(proxy.new_key, rate_limit=2)
    async with proxy.openai(key) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.with_options(max_retries=2).chat.completions.create(
                model="script", messages=say("FAIL")
            )
        assert caught.value.code == "unsupported_messages"
        left = await client.models.with_raw_response.list()
    assert left.headers["x-ratelimit-remaining-requests"] == "0"
