"""What the proxy tells about itself: the numbers at /metrics and the line for each request."""

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.chats import ask
from support.processes import wait_for
from support.proxy import Proxy

CHAT = "/v1/chat/completions"
Samples = dict[str, dict[tuple[str, ...], float]]


def samples(proxy: Proxy) -> Samples:
    """Every value of /metrics once nothing is being answered, by its name and the values of its
    labels, which are sorted."""
    wait_for(lambda: proxy.metric("llamakit_in_flight") == 0, 10, "all is answered")
    found: Samples = {}
    for family in text_string_to_metric_families(proxy.page("/metrics").text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


class Growth:
    """What has grown since."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._before = samples(proxy)

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        """By label values; nothing that stayed."""
        before, after = self._before.get(name, {}), samples(self._proxy).get(name, {})
        grown = {key: value - before.get(key, 0) for key, value in after.items()}
        return {key: value for key, value in grown.items() if value}


def line(proxy: Proxy, request_id: str) -> dict[str, Any]:
    """A request's line of the log."""
    found: dict[str, Any] = json.loads(proxy.wait_for_log(request_id))
    return found


async def test_a_request_is_measured(proxy: Proxy, key: str) -> None:
    growth = Growth(proxy)
    async with proxy.client(key) as client:
        answers = [
            await client.post(CHAT, json=ask()),
            await client.post(CHAT, json=ask(stream=True)),
            await client.post("/v1/completions", json={"model": "script", "prompt": "x"}),
            await client.post("/v1/embeddings", json={"model": "embed", "input": ["x", "y"]}),
        ]
    assert {answer.status_code for answer in answers} == {200}
    lines = [
        await asyncio.to_thread(line, proxy, answer.headers["x-request-id"]) for answer in answers
    ]
    chat = ("chat", "llamakit", "script")
    text = ("text_completion", "llamakit", "script")
    embeddings = ("embeddings", "llamakit", "embed")
    assert growth.of("llamakit_requests_total") == {
        ("", "script", CHAT, "200"): 2,
        ("", "script", "/v1/completions", "200"): 1,
        ("", "embed", "/v1/embeddings", "200"): 1,
    }
    duration = "gen_ai_server_request_duration_seconds"
    expected = {("", *chat): 2, ("", *text): 1, ("", *embeddings): 1}
    assert growth.of(f"{duration}_count") == expected
    took = sum(one["duration_ms"] for one in lines) / 1000
    assert sum(growth.of(f"{duration}_sum").values()) == pytest.approx(took, abs=0.001)
    first = "gen_ai_server_time_to_first_token_seconds"
    assert growth.of(f"{first}_count") == {chat: 2, text: 1}
    until_first = sum(one["ttft_ms"] or 0 for one in lines) / 1000
    assert sum(growth.of(f"{first}_sum").values()) == pytest.approx(until_first, abs=0.001)
    each = "gen_ai_server_time_per_output_token_seconds"
    assert growth.of(f"{each}_count") == {chat: 2, text: 1}
    # The tokens after the first took some of the time after it.
    rest = sum(
        (one["duration_ms"] - one["ttft_ms"]) / 1000 / (one["completion_tokens"] - 1)
        for one in lines[:3]
    )
    assert 0 < sum(growth.of(f"{each}_sum").values()) < rest
    tokens = growth.of("gen_ai_client_token_usage_sum")
    assert tokens[*chat, "input"] == sum(one["prompt_tokens"] for one in lines[:2])
    assert tokens[*chat, "output"] == sum(one["completion_tokens"] for one in lines[:2])
    assert tokens[*embeddings, "input"] == lines[3]["prompt_tokens"]
    assert (*embeddings, "output") not in tokens
    assert growth.of("llamakit_queue_wait_seconds_count") == {("script",): 3, ("embed",): 1}
    assert growth.of("llamakit_overhead_before_backend_seconds_count") == {(): 4}
    assert growth.of("llamakit_overhead_seconds_count") == {(): 4}
    before = growth.of("llamakit_overhead_before_backend_seconds_sum")[()]
    whole = growth.of("llamakit_overhead_seconds_sum")[()]
    assert 0 < before < whole < took


async def test_what_clients_choose_makes_no_series(proxy: Proxy, key: str) -> None:
    growth = Growth(proxy)
    bad = proxy.new_key(allowed_models=["embed"])
    async with proxy.client(key) as client:
        for number in range(20):
            await client.post(CHAT, json=ask(f"made-up-{number}"))
            await client.get(f"/v1/models/made-up-{number}")
            await client.get(f"/made/up/{number}")
        await client.post(CHAT, json=ask(temperature=9))
        await client.get("/v1/models")
        await client.post(CHAT, content=b"{", headers={"content-type": "application/json"})
    async with proxy.client(bad) as client:
        await client.post(CHAT, json=ask())
    async with proxy.client("sk-lk-wrong") as client:
        await client.post(CHAT, json=ask("made-up"))
    assert growth.of("llamakit_requests_total") == {
        ("model_not_found", "(unknown)", CHAT, "404"): 20,
        ("model_not_found", "(unknown)", "/v1/models/{model}", "404"): 20,
        ("not_found", "", "(unknown)", "404"): 20,
        ("invalid_value", "script", CHAT, "400"): 1,
        ("", "", "/v1/models", "200"): 1,
        ("invalid_json", "", CHAT, "400"): 1,
        ("model_not_allowed", "script", CHAT, "403"): 1,
        ("invalid_api_key", "", CHAT, "401"): 1,
    }
    # What was refused has a duration, apart from that of what was answered, and nothing else.
    chat = ("chat", "llamakit", "script")
    assert growth.of("gen_ai_server_request_duration_seconds_count") == {
        ("invalid_value", *chat): 1,
        ("model_not_allowed", *chat): 1,
    }
    for name in ("gen_ai_server_time_to_first_token_seconds", "llamakit_overhead_seconds"):
        assert growth.of(f"{name}_count") == {}
    assert "made" not in proxy.page("/metrics").text


async def test_a_client_that_leaves_and_a_failure_are_told_apart(proxy: Proxy, key: str) -> None:
    growth = Growth(proxy)
    async with proxy.client(key) as client:
        endless = {"role": "user", "content": "LOOP"}
        body = {"model": "script", "messages": [endless], "max_tokens": 8000, "stream": True}
        async with client.stream("POST", CHAT, json=body) as stream:
            async for _ in stream.aiter_bytes():
                break
        request_id = stream.headers["x-request-id"]
    found = await asyncio.to_thread(line, proxy, request_id)
    assert (found["status"], found["error"]) == (200, "client_disconnected")
    assert growth.of("llamakit_requests_total") == {
        ("client_disconnected", "script", CHAT, "200"): 1
    }
    assert growth.of("gen_ai_client_token_usage_count") == {}


async def test_what_is_looked_up(proxy: Proxy) -> None:
    found = await asyncio.to_thread(samples, proxy)
    assert found["llamakit_build_info"] == {("", "0.1.0"): 1}
    assert found["llamakit_database_connected"] == {(): 1}
    assert found["llamakit_routes_current"] == {(): 1}
    assert found["llamakit_log_rows_dropped_total"] == {(): 0}
    # Backends of tests before this one are models still, and may be gone.
    up = found["llamakit_backend_up"]
    assert up.keys() == {
        (backend["url"], model["id"]) for model in proxy.models for backend in model["backends"]
    }
    assert all(value == 1 for (_, model), value in up.items() if model == "script")
    assert found["process_resident_memory_bytes"][()] > 10e6
    assert found["process_open_fds"][()] > 3


async def test_a_backend_that_is_down_shows(proxy: Proxy) -> None:
    await asyncio.to_thread(proxy.route, "away", "http://127.0.0.1:1")
    try:
        found = await asyncio.to_thread(samples, proxy)
        assert found["llamakit_backend_up"]["http://127.0.0.1:1", "away"] == 0
    finally:
        proxy.models = [model for model in proxy.models if model["id"] != "away"]
        proxy.write_routes()


async def test_the_line_of_a_request(proxy: Proxy) -> None:
    key = proxy.new_key("talker")
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-ID": 'mine"\\', "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    async with proxy.client(key) as client:
        answer = await client.post(CHAT, json=ask(), headers=headers)
    ours = answer.headers["x-request-id"]
    assert ours.startswith("req_")
    found = await asyncio.to_thread(line, proxy, ours)
    usage = answer.json()["usage"]
    row = await asyncio.to_thread(proxy.row, ours)
    assert found.pop("time").endswith("Z")
    for name in ("duration_ms", "queue_ms", "ttft_ms"):
        assert found.pop(name) >= 0
    assert found == {
        "level": "info",
        "message": "request",
        "request_id": ours,
        "client_request_id": 'mine"\\',
        "trace_id": trace,
        "client": "127.0.0.1",
        "user": row["username"],
        "key_id": row["key_id"],
        "method": "POST",
        "path": CHAT,
        "model": "script",
        "stream": False,
        "status": 200,
        "error": None,
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "request_bytes": len(answer.request.content),
        "response_bytes": len(answer.content),
    }


@pytest.mark.parametrize("value", [b"x" * 129, b"two words", b"caf\xc3\xa9", b""])
async def test_ids_in_another_form_are_left_out(proxy: Proxy, key: str, value: bytes) -> None:
    headers = [(b"x-request-id", value), (b"traceparent", b"00-" + value)]
    async with proxy.client(key) as client:
        answer = await client.get("/v1/models", headers=headers)
    found = await asyncio.to_thread(line, proxy, answer.headers["x-request-id"])
    assert (found["client_request_id"], found["trace_id"]) == (None, None)


async def test_every_answer_to_a_key_has_our_id(proxy: Proxy, key: str) -> None:
    async with proxy.client(key) as client:
        for answer in (
            await client.get("/openapi.json"),
            await client.get("/metrics", headers={"X-Forwarded-For": "1.2.3.4"}),
            await client.get("/nowhere"),
            await client.options(CHAT),
            await client.delete(CHAT),
            await client.post(CHAT, json=ask(), headers={"Authorization": "Bearer no"}),
            await client.post(CHAT, content=b"[" * 100),
        ):
            assert len(answer.headers.get_list("x-request-id")) == 1
            request_id = answer.headers["x-request-id"]
            assert (await asyncio.to_thread(line, proxy, request_id))["status"] == (
                answer.status_code
            )
