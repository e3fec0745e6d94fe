"""The endpoint of a host, as a client on another machine sees it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import httpx
import openai
import pytest

from support.hosts import Host
from support.models import SAY

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "hello"}
]


@pytest.fixture
def client(host: Host) -> Iterator[openai.OpenAI]:
    user = f"test-{secrets.token_hex(4)}"
    with host.openai(host.new_key(user)) as client:
        yield client
    host.run(f"llamakit-users user delete --yes --username {user}")


def test_the_models_answer(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"script", "embed"}
    whole = client.chat.completions.create(model="script", messages=MESSAGES)
    assert whole.choices[0].message.content == SAY
    parts = client.chat.completions.create(model="script.gguf", messages=MESSAGES, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == SAY
    vectors = client.embeddings.create(model="embed", input="hello")
    assert len(vectors.data[0].embedding) == 64


def test_no_key_no_answer(host: Host) -> None:
    with host.http() as http:
        refused = http.get("/v1/models")
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
    with host.http("sk-lk-wrong-wrong") as http:
        assert http.get("/v1/models").status_code == 401


def test_encryption_is_what_it_says(host: Host) -> None:
    """The self-signed certificate is trusted by whoever has it, and by nobody else."""
    with host.http() as http:
        assert http.get("/healthz").status_code == 200
    if host.url.startswith("https"):
        with (
            httpx.Client(base_url=host.url, trust_env=False) as stranger,
            pytest.raises(httpx.ConnectError, match="certificate verify failed"),
        ):
            stranger.get("/healthz")
        assert not host.status().get("warnings")
    else:
        assert "plain" in str(host.status())
