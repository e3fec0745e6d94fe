"""Traces: what a collector gets, and that nobody waits for one."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from support.backend import Backend
from support.collector import Collector, attributes, running_collector
from support.postgres import Postgres
from support.proxy import SOURCE, Proxy, model_entry, new_proxy, running_proxy

CHAT = "/v1/chat/completions"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CANARY = "canary-of-a-prompt"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector(Collector()) as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
    chat_backend: Backend,
    embedding_backend: Backend,
    collector: Collector,
) -> Iterator[Proxy]:
    """A proxy that sends spans to the collector."""
    models = [
        model_entry("script", chat_backend.url, n_ctx=8192, max_tokens=8000),
        model_entry("embed", embedding_backend.url, kind="embedding", n_ctx=512),
        model_entry("gone", "http://127.0.0.1:1"),
    ]
    folder = tmp_path_factory.mktemp("traced")
    endpoint = collector.url + "/"
    with running_proxy(postgres, folder, models, LLAMA_PROXY_OTLP_ENDPOINT=endpoint) as proxy:
        yield proxy


def chat(model: str = "script", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"hello {CANARY}"}], **more}


async def ask(
    proxy: Proxy, body: dict[str, Any], path: str = CHAT, **headers: str
) -> tuple[str, int]:
    """The request's id and the answer's status."""
    async with proxy.client(proxy.new_key("traveller")) as client:
        answer = await client.post(path, json=body, headers=headers)
    return answer.headers["x-request-id"], answer.status_code


def logged(proxy: Proxy, request_id: str) -> dict[str, Any]:
    """A request's line of the log."""
    found: dict[str, Any] = json.loads(proxy.wait_for_log(request_id))
    return found


@pytest.mark.parametrize("stream", [True, False])
async def test_a_chat(
    traced: Proxy, collector: Collector, chat_backend: Backend, stream: bool
) -> None:
    request_id, status = await ask(traced, chat(stream=stream))
    assert status == 200
    root, queue, operation = await asyncio.to_thread(collector.trace, request_id)
    line = await asyncio.to_thread(logged, traced, request_id)
    assert (root.name, root.kind) == (f"POST {CHAT}", Span.SPAN_KIND_SERVER)
    assert root.parent_span_id == b""
    assert line["trace_id"] == root.trace_id.hex()
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "llamakit.request_id": request_id,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llamakit",
        "gen_ai.request.model": "script",
    }
    assert queue.name == "queue"
    assert (operation.name, operation.kind) == ("chat script", Span.SPAN_KIND_CLIENT)
    told = attributes(operation)
    assert 0 < told.pop("gen_ai.response.time_to_first_chunk") < line["duration_ms"] / 1000
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llamakit",
        "gen_ai.request.model": "script",
        "gen_ai.request.stream": stream,
        "gen_ai.usage.input_tokens": line["prompt_tokens"],
        "gen_ai.usage.output_tokens": line["completion_tokens"],
        "server.address": "127.0.0.1",
        "server.port": chat_backend.port,
    }
    assert all(span.trace_id == root.trace_id for span in (queue, operation))
    # One within the other, one after the other.
    assert root.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano <= operation.start_time_unix_nano
    assert operation.start_time_unix_nano < operation.end_time_unix_nano <= root.end_time_unix_nano
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 60
    took = (root.end_time_unix_nano - root.start_time_unix_nano) / 1e6
    assert took == pytest.approx(line["duration_ms"], abs=0.1)
    assert collector.resources[-1]["service.name"] == "llamakit-proxy"


async def test_several_answers_wait_within_their_request(
    traced: Proxy, collector: Collector
) -> None:
    """The later ones of each, for those of the other."""
    asked = (ask(traced, chat(n=3, max_tokens=50)) for _ in range(2))
    for request_id, status in await asyncio.gather(*asked):
        assert status == 200
        root, queue, operation = await asyncio.to_thread(collector.trace, request_id)
        assert root.start_time_unix_nano <= queue.start_time_unix_nano
        assert queue.end_time_unix_nano <= operation.start_time_unix_nano


async def test_other_requests(traced: Proxy, collector: Collector) -> None:
    embedding, status = await ask(traced, {"model": "embed", "input": "x"}, "/v1/embeddings")
    assert status == 200
    *_, operation = await asyncio.to_thread(collector.trace, embedding)
    assert operation.name == "embeddings embed"
    missing, status = await ask(traced, chat("no such model"))
    assert status == 404
    (root,) = await asyncio.to_thread(collector.trace, missing)
    assert attributes(root)["error.type"] == "model_not_found"
    # The request was wrong, nothing here was.
    assert root.status.code == Status.STATUS_CODE_UNSET
    failed, status = await ask(traced, chat("gone"))
    assert status == 503
    root, _, operation = await asyncio.to_thread(collector.trace, failed)
    for span in (root, operation):
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert attributes(span)["error.type"] == "backend_unavailable"


async def test_a_client_brings_its_trace(traced: Proxy, collector: Collector) -> None:
    sampled = f"00-{TRACE}-{SPAN}-01"
    request_id, _ = await ask(traced, chat(), traceparent=sampled)
    root, *_ = await asyncio.to_thread(collector.trace, request_id)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert (await asyncio.to_thread(logged, traced, request_id))["trace_id"] == TRACE

    dark, _ = await ask(traced, chat(), traceparent=f"00-{TRACE}-{SPAN}-00")
    wrong, _ = await ask(traced, chat(), traceparent="00-nonsense")
    root, *_ = await asyncio.to_thread(collector.trace, wrong)
    assert root.parent_span_id == b""
    ids = {attributes(span).get("llamakit.request_id") for span in collector.spans}
    assert dark not in ids
    assert (await asyncio.to_thread(logged, traced, dark))["trace_id"] == TRACE


async def test_nothing_that_people_say_or_prove_is_sent(
    traced: Proxy, collector: Collector
) -> None:
    key = traced.new_key("traveller")
    async with traced.client(key) as client:
        answer = await client.post(CHAT, json=chat(user=CANARY), headers={"X-Request-ID": CANARY})
        await client.post(f"/{CANARY}", json=chat())
        refused = await client.get("/v1/models", headers={"authorization": f"Bearer {key}x"})
    assert refused.status_code == 401
    for known in (answer, refused):
        await asyncio.to_thread(collector.trace, known.headers["x-request-id"])
    sent = b"".join(collector.bodies)
    said = answer.json()["choices"][0]["message"]["content"]
    secret = (traced.settings.secrets_dir / "llama_api_key").read_text()
    for text in (CANARY, key.rpartition("-")[2], secret, said, "traveller", key.split("-")[2]):
        assert text
        assert text.encode() not in sent


async def test_what_waits_is_sent_at_the_end(
    postgres: Postgres, tmp_path: Path, chat_backend: Backend
) -> None:
    collector = Collector()
    models = [model_entry("script", chat_backend.url, n_ctx=8192, max_tokens=8000)]
    with running_collector(collector):
        overrides = {"LLAMA_PROXY_OTLP_ENDPOINT": collector.url}
        with running_proxy(postgres, tmp_path, models, **overrides) as proxy:
            request_id, _ = await ask(proxy, chat())
            assert await asyncio.to_thread(proxy.stop) == 0
        assert len(collector.trace(request_id, seconds=0)) == 3
        assert "spans were dropped" not in proxy.log.read_text()


async def test_a_collector_that_is_away_or_hangs_harms_nobody(
    postgres: Postgres, tmp_path: Path, chat_backend: Backend
) -> None:
    collector = Collector()
    models = [model_entry("script", chat_backend.url, n_ctx=8192, max_tokens=8000)]
    overrides = {"LLAMA_PROXY_OTLP_ENDPOINT": collector.url}
    with running_proxy(postgres, tmp_path, models, **overrides) as proxy:
        request_id, status = await ask(proxy, chat())
        assert status == 200
        # Nobody listens there: this is said once, and counted.
        await asyncio.to_thread(proxy.wait_for_log, f"{collector.url}/v1/traces takes no spans")
        assert proxy.metric("llamakit_spans_dropped_total") == 3
        assert (await asyncio.to_thread(logged, proxy, request_id))["trace_id"]
        with running_collector(collector):
            request_id, _ = await ask(proxy, chat())
            await asyncio.to_thread(collector.trace, request_id)
            await asyncio.to_thread(proxy.wait_for_log, "takes spans again")
            assert proxy.metric("llamakit_spans_sent_total") == 3
            # It takes the request and says nothing, for longer than anyone waits.
            collector.hold.clear()
            async with proxy.client(proxy.new_key()) as client:
                for _ in range(700):
                    assert (await client.get("/v1/models")).status_code == 200
                    assert (await client.get("/v1/nothing")).status_code == 404
                    assert (await client.get("/v1/models/none")).status_code == 404
            # More than may wait: the rest is counted.
            assert proxy.metric("llamakit_spans_dropped_total") > 3
            begin = time.monotonic()
            assert await asyncio.to_thread(proxy.stop) == 0
            assert time.monotonic() - begin < 12
        log = proxy.log.read_text()
        assert log.count("takes no spans") in {1, 2}
        assert "spans were dropped since the start" in log
        assert "opentelemetry" not in log


def test_nothing_of_it_is_loaded_without_a_collector() -> None:
    program = "import sys, llamakit_proxy.server; sys.exit('opentelemetry.sdk' in sys.modules)"
    environment = {"PYTHONPATH": str(SOURCE)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


def test_an_environment_without_the_packages_says_so(
    postgres: Postgres, tmp_path: Path, chat_backend: Backend
) -> None:
    models = [model_entry("script", chat_backend.url)]
    proxy = new_proxy(postgres, tmp_path, models, LLAMA_PROXY_OTLP_ENDPOINT="http://127.0.0.1:1")
    hidden = tmp_path / "hidden" / "opentelemetry" / "sdk"
    hidden.mkdir(parents=True)
    missing = "ModuleNotFoundError(name='opentelemetry.sdk')"
    (hidden / "__init__.py").write_text(f"raise {missing}")
    proxy.environment["PYTHONPATH"] += f":{tmp_path / 'hidden'}"
    proxy.launch()
    assert proxy.process is not None
    assert proxy.process.wait(30) == 2
    said = proxy.log.read_text()
    assert "LLAMA_PROXY_OTLP_ENDPOINT is set, and this environment has no opentelemetry.sdk" in said
    assert "./console.sh start" in said
