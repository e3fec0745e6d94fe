"""Fixtures of the request path's tests: real model servers and real proxy processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.backend import Backend, running_backend
from support.models import embedding_model, script_model
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, running_proxy


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def chat_backend(models_folder: Path) -> Iterator[Backend]:
    """The scripted model: it recites a text that a word in the last message chooses."""
    with running_backend(script_model(models_folder), n_ctx=8192) as backend:
        yield backend


@pytest.fixture(scope="session")
def embedding_backend(models_folder: Path) -> Iterator[Backend]:
    model = embedding_model(models_folder)
    with running_backend(model, embedding=True, n_ctx=512, n_batch=512, n_ubatch=512) as backend:
        yield backend


@pytest.fixture(scope="session")
def proxy(
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
    chat_backend: Backend,
    embedding_backend: Backend,
) -> Iterator[Proxy]:
    """A proxy with a chat model ("script", alias "script.gguf") and an embedding model."""
    models = [
        model_entry(
            "script", chat_backend.url, aliases=["script.gguf"], n_ctx=8192, max_tokens=8000
        ),
        model_entry("embed", embedding_backend.url, kind="embedding", n_ctx=512),
    ]
    with running_proxy(postgres, tmp_path_factory.mktemp("proxy"), models) as proxy:
        yield proxy


@pytest.fixture
def key(proxy: Proxy) -> str:
    """A new user's key, without a rate limit."""
    return proxy.new_key()


@pytest.fixture(scope="module")
def pair(
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
    chat_backend: Backend,
    embedding_backend: Backend,
) -> Iterator[list[Proxy]]:
    """Two running proxies with the same users and models, as on two hosts."""
    models = [
        model_entry("script", chat_backend.url, aliases=["script.gguf"], n_ctx=8192),
        model_entry("embed", embedding_backend.url, kind="embedding", n_ctx=512),
    ]
    with running_proxy(postgres, tmp_path_factory.mktemp("first"), models) as first:
        second = first.twin(tmp_path_factory.mktemp("second"))
        try:
            second.start()
            yield [first, second]
        finally:
            second.stop()


@pytest.fixture
def own(postgres: Postgres, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy without models that a test may harm."""
    with running_proxy(postgres, tmp_path, []) as proxy:
        yield proxy
