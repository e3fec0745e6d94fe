"""What clients see when a backend fails in one of the many ways it can."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from support.backend import KEY, free_port
from support.fake_backend import DONE, END, HEAD, Answer, Call, chunked, delta, fake_backend, usage
from support.postgres import Postgres
from support.proxy import Proxy, model_entry, running_proxy

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"


@pytest.fixture(scope="module")
def impatient(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy whose timeouts are short."""
    with running_proxy(
        postgres,
        tmp_path_factory.mktemp("impatient"),
        [model_entry("nobody", f"http://127.0.0.1:{free_port()}")],
        LLAMA_PROXY_STALL_TIMEOUT_SECONDS="1",
        LLAMA_PROXY_QUEUE_TIMEOUT_SECONDS="2",
        LLAMA_PROXY_WRITE_TIMEOUT_SECONDS="1.5",
        LLAMA_PROXY_QUEUE_LIMIT="4",
    ) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def impatient_key(impatient: Proxy) -> str:
    return impatient.new_key()


def ask(stream: bool = True, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "canary-prompt-77"}]
    return {"model": "fake", "messages": messages, "stream": stream, **more}


async def answers(
    proxy: Proxy, key: str, answer: Answer, body: dict[str, Any], path: str = CHAT
) -> tuple[httpx.Response, list[Call]]:
    """The proxy's answer to ``body`` when the backend does ``answer``."""
    async with fake_backend(answer) as fake, proxy.client(key) as client:
        await asyncio.to_thread(proxy.route, "fake", fake.url)
        return await client.post(path, json=body), fake.calls


def events(response: httpx.Response) -> list[str]:
    return [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]


async def empty(call: Call) -> None:
    await call.send(HEAD, END)


async def nothing_but_done(call: Call) -> None:
    await call.send(HEAD, DONE, END)


async def garbage(call: Call) -> None:
    await call.send(HEAD, chunked(b"data: {canary-backend-text\n\n"), DONE, END)


async def not_http(call: Call) -> None:
    await call.send(b"canary-backend-text\r\n\r\n")


async def slammed(call: Call) -> None:
    await call.send()
    raise ConnectionError


async def error_status(call: Call) -> None:
    body = b'{"error":{"message":"File /srv/canary-backend-text/app.py line 3"}}'
    await call.send(b"HTTP/1.1 500 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


async def wrong_key(call: Call) -> None:
    await call.send(b"HTTP/1.1 401 X\r\ncontent-length: 2\r\n\r\n{}")


async def error_event(call: Call) -> None:
    await call.send(HEAD, chunked(b'data: {"error":{"code":"canary-backend-text"}}\n\n'), DONE, END)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "answer",
    [empty, nothing_but_done, garbage, not_http, slammed, error_status, wrong_key, error_event],
)
async def test_failure_before_the_first_token(
    impatient: Proxy, impatient_key: str, answer: Answer, stream: bool
) -> None:
    response, _ = await answers(impatient, impatient_key, answer, ask(stream))
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "server_error"
    assert "canary-backend" not in response.text


async def truncated(call: Call) -> None:
    await call.send(HEAD, delta("one"), delta("two"), END)


async def cut(call: Call) -> None:
    await call.send(HEAD, delta("one"), delta("two"))
    raise ConnectionError


async def done_without_finish(call: Call) -> None:
    await call.send(HEAD, delta("one"), delta("two"), DONE, END)


async def finish_without_done(call: Call) -> None:
    await call.send(HEAD, delta("one"), delta("two"), delta("", "stop"), END)


async def error_after_some(call: Call) -> None:
    failure = chunked(b'data: {"error":{"code":"generation_failed"}}\n\n')
    await call.send(HEAD, delta("one"))
    await asyncio.sleep(0.1)
    await call.send(delta("two") + failure + DONE, END)


@pytest.mark.parametrize(
    "answer", [truncated, cut, done_without_finish, finish_without_done, error_after_some]
)
async def test_a_stream_that_breaks_off_never_ends_cleanly(
    impatient: Proxy, impatient_key: str, answer: Answer
) -> None:
    response, _ = await answers(impatient, impatient_key, answer, ask())
    assert response.status_code == 200
    *parts, last = events(response)
    text = "".join(json.loads(part)["choices"][0]["delta"]["content"] for part in parts)
    assert text == "onetwo"
    assert json.loads(last)["error"]["type"] == "server_error"
    assert "[DONE]" not in response.text
    whole, _ = await answers(impatient, impatient_key, answer, ask(stream=False))
    assert whole.status_code == 502


@pytest.mark.parametrize("answer", [truncated, cut, done_without_finish, error_after_some])
async def test_a_response_that_breaks_off_has_failed(
    impatient: Proxy, impatient_key: str, answer: Answer
) -> None:
    body = {"model": "fake", "input": "canary-prompt-77", "stream": True}
    response, _ = await answers(impatient, impatient_key, answer, body, RESPONSES)
    assert response.status_code == 200
    found = [json.loads(block.split("\ndata: ")[1]) for block in response.text.split("\n\n")[:-1]]
    *_, failed, last = found
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert failed["response"]["output"][0]["content"][0]["text"] == "onetwo"
    assert (last["type"], last["error"]["type"]) == ("error", "server_error")
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    whole, _ = await answers(impatient, impatient_key, answer, {**body, "stream": False}, RESPONSES)
    assert whole.status_code == 502


async def test_the_openai_client_raises_what_broke_off(
    impatient: Proxy, impatient_key: str
) -> None:
    seen: list[str] = []

    async def follow(client: openai.AsyncOpenAI) -> None:
        async with client.responses.stream(model="fake", input="x") as stream:
            async for event in stream:
                assert event.type != "response.completed"
                seen.append(event.type)

    async with fake_backend(stalls) as fake, impatient.openai(impatient_key) as client:
        await asyncio.to_thread(impatient.route, "fake", fake.url)
        with pytest.raises(openai.APIError) as caught:
            await follow(client)
    assert seen[-1] == "response.failed"
    assert caught.value.code == "backend_timeout"


async def stalls(call: Call) -> None:
    await call.send(HEAD, delta("one"))
    while True:
        # Pings are no progress.
        await call.send(chunked(b": ping - 1\n\n"))
        await asyncio.sleep(0.2)


async def test_a_backend_that_stalls(impatient: Proxy, impatient_key: str) -> None:
    start = time.monotonic()
    response, _ = await answers(impatient, impatient_key, stalls, ask())
    assert time.monotonic() - start < 8
    assert json.loads(events(response)[-1])["error"]["code"] == "backend_timeout"
    whole, _ = await answers(impatient, impatient_key, stalls, ask(stream=False))
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "backend_timeout")


async def silent(call: Call) -> None:
    await call.gone(30)


async def test_a_backend_that_never_begins(impatient: Proxy, impatient_key: str) -> None:
    response, _ = await answers(impatient, impatient_key, silent, ask())
    assert (response.status_code, response.json()["error"]["code"]) == (504, "backend_timeout")


async def test_no_backend(impatient: Proxy, impatient_key: str) -> None:
    async with impatient.client(impatient_key) as client:
        for path, body in (
            (CHAT, {**ask(), "model": "nobody"}),
            ("/v1/completions", {"model": "nobody", "prompt": "x"}),
        ):
            response = await client.post(path, json=body)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "backend_unavailable"
            assert int(response.headers["retry-after"]) >= 1


async def test_a_client_waits_no_longer_than_the_server_lets_it(
    impatient: Proxy, impatient_key: str
) -> None:
    """Whatever it says: else it has a place in the queue for as long as it likes."""
    go_on = asyncio.Event()

    async def held(call: Call) -> None:
        await call.send(HEAD)
        while not go_on.is_set():
            # Tokens, because one that makes none for a second is cut off.
            await call.send(delta("x"))
            await asyncio.sleep(0.1)
        await call.send(delta("", "stop"), usage(1, 1), DONE, END)

    async with fake_backend(held) as fake, impatient.client(impatient_key) as client:
        await asyncio.to_thread(impatient.route, "fake", fake.url)
        first = asyncio.create_task(client.post(CHAT, json=ask()))
        await asyncio.wait_for(fake.called.wait(), 10)
        waiting = client.post(CHAT, json=ask(), headers={"X-Queue-Timeout": "inf"})
        response = await asyncio.wait_for(waiting, 20)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_timeout")
        go_on.set()
        assert (await first).status_code == 200


async def good(call: Call) -> None:
    await call.send(HEAD, delta("one"), delta("", "stop"), usage(5, 1), DONE, END)


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [{"embedding": [[0.1], [0.2]]}], "usage": {"prompt_tokens": 2}},
        {"data": [], "usage": {"prompt_tokens": 2}},
        {"data": [{"embedding": []}], "usage": {"prompt_tokens": 2}},
        {"data": [{}], "usage": {"prompt_tokens": 2}},
        {"data": [{"embedding": [0.1]}]},
        {"canary-backend-text": 1},
        [],
    ],
)
async def test_embeddings_that_are_none(impatient: Proxy, impatient_key: str, answer: Any) -> None:
    async def embed(call: Call) -> None:
        body = json.dumps(answer).encode()
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with fake_backend(embed) as fake, impatient.client(impatient_key) as client:
        await asyncio.to_thread(impatient.route, "vectors", fake.url, kind="embedding")
        for encoding in ("float", "base64"):
            response = await client.post(
                "/v1/embeddings",
                json={"model": "vectors", "input": "x", "encoding_format": encoding},
            )
            assert response.status_code == 502
            assert "canary" not in response.text


async def test_what_the_backend_gets(impatient: Proxy, impatient_key: str) -> None:
    async with fake_backend(good) as fake, impatient.client(impatient_key) as client:
        await asyncio.to_thread(impatient.route, "fake", fake.url, aliases=["Alias"])
        for _ in range(3):
            response = await client.post(
                CHAT,
                json={**ask(stream=False), "model": "Alias"},
                headers={"X-Request-ID": "canary", "Cookie": "a=canary", "X-Api-Key": "canary"},
            )
            assert response.status_code == 200
    assert response.json()["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 1,
        "total_tokens": 6,
    }
    call = fake.calls[0]
    assert call.headers["authorization"] == f"Bearer {KEY}".lower()
    assert set(call.headers) == {"content-length", "host", "content-type", "authorization"}
    assert call.body["model"] == "fake"
    assert call.body["stream"] is True
    assert call.body["max_tokens"] == 1024
    assert call.body["repeat_penalty"] == 1.0
    seeds = {call.body["seed"] for call in fake.calls}
    assert len(seeds) == 3
    assert fake.connections == 1


async def test_a_connection_the_backend_closed_is_not_an_error(
    impatient: Proxy, impatient_key: str
) -> None:
    async def once(call: Call) -> None:
        await good(call)
        raise ConnectionError

    async with fake_backend(once) as fake, impatient.client(impatient_key) as client:
        await asyncio.to_thread(impatient.route, "fake", fake.url)
        for _ in range(20):
            assert (await client.post(CHAT, json=ask(False))).status_code == 200


async def test_a_reader_that_takes_nothing_holds_no_place(
    impatient: Proxy, impatient_key: str
) -> None:
    """Many requests at once on one connection, not one answer read: the first answers fill the
    socket, and the rest may not wait on a backend's place for a reader that never comes."""

    async def large(call: Call) -> None:
        await call.send(HEAD, delta("x" * 900_000), delta("", "stop"), usage(1, 1), DONE, END)

    async with fake_backend(large) as fake:
        await asyncio.to_thread(impatient.route, "fake", fake.url)
        _, writer = await asyncio.open_connection("127.0.0.1", impatient.port, limit=1024)
        body = json.dumps(ask(stream=False)).encode()
        request = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {impatient_key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body
        writer.write(request * 20)
        await asyncio.sleep(4)
        assert await asyncio.to_thread(impatient.metric, "llamakit_running", model="fake") == 0
        assert await asyncio.to_thread(impatient.metric, "llamakit_in_flight") == 0
        writer.close()


async def test_a_reader_that_stalls_is_cut(impatient: Proxy, impatient_key: str) -> None:
    others: list[int] = []

    async def flood(call: Call) -> None:
        if call.body["seed"] == 2:
            await good(call)
            return
        await call.send(HEAD)
        for _ in range(3000):
            await call.send(delta("x" * 20_000))
            await asyncio.sleep(0)
        await call.gone()

    async with fake_backend(flood) as fake:
        backend = {"url": fake.url, "api_key_secret": None, "capacity": 2}
        await asyncio.to_thread(impatient.route, "fake", fake.url, backends=[backend])
        reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port, limit=1024)
        body = json.dumps(ask()).encode()
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {impatient_key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        async with impatient.client(impatient_key) as client:
            # Meanwhile another request is served.
            others.append((await client.post(CHAT, json=ask(seed=2))).status_code)
            await asyncio.sleep(3)
            others.append((await client.post(CHAT, json=ask(seed=2))).status_code)
            running = await asyncio.to_thread(impatient.metric, "llamakit_running", model="fake")
        writer.close()
        del reader
    assert others == [200, 200]
    assert running == 0
    errors = {row["error_code"] for row in await asyncio.to_thread(impatient.rows, 3)}
    assert "client_too_slow" in errors


async def test_no_prompt_or_key_in_the_log(impatient: Proxy, impatient_key: str) -> None:
    # One that is answered, and failures before the first token, in the middle and in the backend.
    for answer in (good, garbage, error_after_some, error_status):
        response, calls = await answers(impatient, impatient_key, answer, ask())
        assert "canary-prompt-77" in json.dumps(calls[0].body)
        line = impatient.wait_for_log(response.headers["x-request-id"])
        assert '"message":"request"' in line
    text = impatient.log.read_text()
    for canary in ("canary-prompt", "canary-backend", impatient_key, KEY, str(Path(__file__))):
        assert canary not in text
