"""Log probabilities, from a model server that was started for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from support.backend import running_backend
from support.models import script_model
from support.proxy import Proxy

QUESTION: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model(proxy: Proxy, models_folder: Path) -> Iterator[str]:
    with running_backend(script_model(models_folder), logits_all=True, n_ctx=512) as backend:
        proxy.route("telling", backend.url, logprobs=True, n_ctx=512)
        yield "telling"


@pytest.mark.parametrize("count", [0, 3])
async def test_chat(proxy: Proxy, key: str, model: str, count: int) -> None:
    async with proxy.openai(key) as client:
        whole = await client.chat.completions.create(
            model=model, messages=QUESTION, logprobs=True, top_logprobs=count
        )
        stream = await client.chat.completions.create(
            model=model, messages=QUESTION, logprobs=True, top_logprobs=count, stream=True
        )
        parts = [part.choices[0] async for part in stream]
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == whole.choices[0].message.content
    assert all(len(token.top_logprobs) == count for token in logprobs.content)
    assert all(token.logprob <= 0 for token in logprobs.content)
    streamed = [
        token.token
        for part in parts
        if part.logprobs is not None
        for token in part.logprobs.content or ()
    ]
    assert streamed == [token.token for token in logprobs.content]


async def test_completion(proxy: Proxy, key: str, model: str) -> None:
    async with proxy.openai(key) as client:
        answer = await client.completions.create(model=model, prompt="x", logprobs=2, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == answer.choices[0].text
    assert len(logprobs.token_logprobs or ()) == len(logprobs.top_logprobs or ()) == 4


async def test_response(proxy: Proxy, key: str, model: str) -> None:
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with proxy.openai(key) as client:
        whole = await client.responses.create(model=model, input="hello", **asked)
        async with client.responses.stream(model=model, input="hello", **asked) as stream:
            deltas = [e async for e in stream if e.type == "response.output_text.delta"]
            final = await stream.get_final_response()
    (message,) = whole.output
    assert message.type == "message"
    assert message.content[0].type == "output_text"
    tokens = message.content[0].logprobs
    assert tokens is not None
    assert "".join(token.token for token in tokens) == whole.output_text
    assert all(bytes(token.bytes).decode() == token.token for token in tokens)
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert [part.token for delta in deltas for part in delta.logprobs] == [t.token for t in tokens]
    assert final.output[0].type == "message"
    assert final.output[0].content[0].type == "output_text"
    assert len(final.output[0].content[0].logprobs or ()) == len(tokens)
    assert whole.top_logprobs == 2


async def test_a_model_that_was_not(proxy: Proxy, key: str) -> None:
    async with proxy.openai(key) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="script", messages=QUESTION, logprobs=True)
    assert "logits_all" in caught.value.message
