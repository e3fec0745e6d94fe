"""The routing table and its file."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamakit_proxy.errors import ApiError
from llamakit_proxy.routes import RouteFile, RoutesError, RoutingTable, parse


def entry(name: str = "m", **more: Any) -> dict[str, Any]:
    backends = [{"url": "http://127.0.0.1:8010", "api_key_secret": "key", "capacity": 2}]
    return {"id": name, "kind": "chat", "n_ctx": 4096, "backends": backends, **more}


def table(*models: dict[str, Any]) -> RoutingTable:
    return parse({"models": list(models)}, secret=lambda name: f"<{name}>", default_max_tokens=99)


def test_names() -> None:
    routes = table(entry("one", aliases=["One.gguf"]), entry("two"))
    assert routes.find("One.gguf") is routes.find("one")
    assert routes.find("one").max_tokens == 99
    assert routes.find("one").tools is None
    for dialect, known in (("none", None), ("hermes", "hermes")):
        assert table(entry(tools=dialect)).find("m").tools == known
    assert routes.find("one").backends[0].api_key == "<key>"
    assert "<key>" not in repr(routes.find("one"))
    for name in ("one.gguf", "ONE", "", "on"):
        with pytest.raises(ApiError) as caught:
            routes.find(name)
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "expected an object"),
        ({}, "no 'models'"),
        ({"models": {}}, "expected list"),
        ({"models": [{}]}, "no 'backends'"),
        ({"models": [entry(backends=[])]}, "at least one backend"),
        ({"models": [entry(kind="image")]}, "'chat' or 'embedding'"),
        ({"models": [entry(id="a\nb")]}, "printable"),
        ({"models": [entry(n_ctx=0)]}, "expected 1 or more"),
        ({"models": [entry(n_ctx=True)]}, "expected int"),
        ({"models": [entry(tools="yaml")]}, "hermes, llama3, mistral, none"),
        ({"models": [entry(aliases=[3])]}, "printable"),
        ({"models": [entry("a"), entry("b", aliases=["a"])]}, "names both 'a' and 'b'"),
        ({"models": [entry(backends=[{"url": "https://x:1"}])]}, "http://HOST:PORT"),
        ({"models": [entry(backends=[{"url": "http://x/v1"}])]}, "http://HOST:PORT"),
        ({"models": [entry(backends=[{"url": "http://x:99999"}])]}, "http://HOST:PORT"),
        ({"models": [entry(backends=[{"url": "http://gpu..local:1"}])]}, "http://HOST:PORT"),
        ({"models": [entry(backends=[{"url": f"http://{'x' * 64}:1"}])]}, "http://HOST:PORT"),
        ({"models": [entry(backends=[{"url": "http://x:1", "capacity": 0}])]}, "1 or more"),
    ],
)
def test_what_is_refused(document: Any, words: str) -> None:
    with pytest.raises(RoutesError, match=words.replace("'", ".")):
        parse(document, secret=str, default_max_tokens=1)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://gpu01:8010", "gpu01", 8010),
        ("http://gpu01", "gpu01", 80),
        ("http://[::1]:8010/", "::1", 8010),
    ],
)
def test_backend_urls(url: str, host: str, port: int) -> None:
    (backend,) = table(entry(backends=[{"url": url}])).find("m").backends
    assert (backend.host, backend.port, backend.capacity) == (host, port, 1)
    assert backend.api_key is None


def test_a_changed_file_is_taken_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    path.write_text(json.dumps({"models": [entry("one")]}))
    file = RouteFile(path, secret=str, default_max_tokens=1)
    assert not file.poll()
    path.write_text("{")
    assert not file.poll()
    assert file.error is not None
    assert "not JSON" in file.error
    assert file.table.find("one")
    path.unlink()
    assert not file.poll()
    assert file.table.find("one")
    path.write_text(json.dumps({"models": [entry("two")]}))
    assert file.poll()
    assert file.error is None
    assert file.table.find("two")
