"""Bodies that are meant to cost more than they are worth, or to be read as something else."""

import asyncio
import contextlib
import gzip
import json
import socket
import time
import zlib
from typing import Any

import httpx
import pytest

from llamakit_proxy import body
from llamakit_proxy.body import LINGER_BYTES, MAX_DEPTH, MAX_VALUES
from llamakit_proxy.errors import ApiError
from llamakit_proxy.validate.text import neutralise
from support.proxy import Proxy
from support.wire import exchange, head, status

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "script", "messages": [{"role": "user", "content": "hello"}]}
RAW = json.dumps(GOOD)
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "encoding",
    ["gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "compress", "identity, gzip", "gzip, gzip",
     "*", "aes128gcm", ""],
)  # fmt: skip
async def test_compressed_bodies_are_not_unpacked(proxy: Proxy, key: str, encoding: str) -> None:
    """16 KB of zstd become 512 MB elsewhere; here nothing is unpacked at all."""
    packed = gzip.compress(RAW.encode()) if "gzip" in encoding else zlib.compress(RAW.encode())
    async with proxy.client(key) as client:
        headers = {**JSON, "Content-Encoding": encoding}
        response = await client.post(CHAT, content=packed, headers=headers)
        assert response.status_code == 415
        assert response.json()["error"]["code"] == "unsupported_content_encoding"
        plain = await client.post(CHAT, content=packed, headers=JSON)
        assert plain.status_code == 400
        assert plain.json()["error"]["code"] == "invalid_json"


async def test_endless_bodies_are_cut_while_they_are_read(proxy: Proxy) -> None:
    """Many at once, chunked, each of which would be 64 MB: memory does not follow."""
    key = proxy.new_key("endless")
    name = f"endless{proxy._created}"
    (worker,) = proxy.workers()
    piece = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    peak = before = worker.memory_info().rss

    async def flood() -> int:
        """How much was taken before the connection ended."""
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(head(key, "transfer-encoding: chunked"))
        taken = 0
        with contextlib.suppress(ConnectionError):
            while taken < 64 << 20:
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), 30)
                taken += len(piece)
        writer.close()
        return taken

    floods = asyncio.gather(*(flood() for _ in range(8)))
    while not floods.done():
        peak = max(peak, worker.memory_info().rss)
        await asyncio.sleep(0.02)
    most = proxy.settings.max_body_bytes + LINGER_BYTES + (12 << 20)
    assert max(await floods) <= most
    assert peak - before < 96 << 20, f"{(peak - before) >> 20} MB more"
    deadline = time.monotonic() + 10
    while True:
        rows = [row for row in await asyncio.to_thread(proxy.rows) if row["username"] == name]
        if len(rows) == 8:
            break
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert {row["error_code"] for row in rows} == {"request_too_large"}


BAD_JSON = [
    b'{"model": "script", "temperature": NaN, "messages": []}',
    b'{"model": "script", "temperature": Infinity, "messages": []}',
    b'{"model": "script", "temperature": -Infinity, "messages": []}',
    b'{"model": "script", "temperature": 1e999, "messages": []}',
    b'{"model": "script", "seed": ' + b"9" * 5000 + b"}",
    b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    b"[" * 500_000,
    b"{" * 500_000,
    b'{"a":[' + b"1," * MAX_VALUES + b"1]}",
    b'{"a":["' + b'","' * MAX_VALUES + b'"]}',
    b'{"a":1,}',
    b"{'a':1}",
    b'{"a":1} {"b":2}',
    b'\xef\xbb\xbf{"a":1}',
    RAW.encode("utf-16"),
    RAW.encode("utf-32"),
    b'{"model":"\xc0\xae"}',
    b'{"model":"\xed\xa0\x80"}',
    b'{"model":"a\nb"}',
    b'{"model":"a\x00b"}',
    b"null",
    b'"script"',
]


@pytest.mark.parametrize("raw", BAD_JSON, ids=lambda raw: ascii(raw[:30]))
async def test_json_that_is_none(proxy: Proxy, key: str, raw: bytes) -> None:
    async with proxy.client(key) as client:
        response = await client.post(CHAT, content=raw, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"
    assert len(response.content) < 1000


HUGE = int("9" * 400)
"""A number that Python's floats can't hold."""


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": HUGE},
        {"temperature": -HUGE},
        {"seed": HUGE},
        {"max_tokens": HUGE},
        {"n": HUGE},
        {"top_k": -HUGE},
        {"logit_bias": {"1": HUGE}},
        {"logit_bias": {str(HUGE): 1}},
        {"stop": [HUGE]},
        {"min_tokens": HUGE},
        {"top_logprobs": HUGE, "logprobs": True},
        {"stream_options": {"include_usage": HUGE}, "stream": True},
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "string", "minLength": HUGE}}}},
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "array", "maxItems": -HUGE}}}},
        {"n_discard": -1},
        {"api_base": "http://127.0.0.1:1"},
        {"base_url": "http://127.0.0.1:1"},
        {"slot_id": 0},
        {"lora": "/etc/passwd"},
        {"grammar": "root ::= root"},
        {"min_p": True},
        {"max_tokens": -1},
        {"n": 1000},
    ],
    ids=str,
)  # fmt: skip
async def test_values_that_are_out_of_all_bounds(
    proxy: Proxy, key: str, more: dict[str, Any]
) -> None:
    async with proxy.client(key) as client:
        response = await client.post(CHAT, json={**GOOD, **more})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.content) < 2000


async def test_of_a_key_given_twice_the_last_counts_for_everyone(proxy: Proxy) -> None:
    """What was checked is what the backend gets: there is no second reading of the bytes."""
    key = proxy.new_key("twice", allowed_models=["embed"])
    raw = RAW.replace('{"model": "script"', '{"model": "embed", "model": "script"')
    async with proxy.client(key) as client:
        response = await client.post(CHAT, content=raw, headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "{url}/a.png"}},
        {"type": "image_url", "image_url": "{url}/a.png"},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data/"}},
        {"type": "input_image", "image_url": "{url}/a.png"},
        {"type": "input_audio", "input_audio": {"data": "{url}", "format": "wav"}},
        {"type": "file", "file": {"file_data": "{url}"}},
        {"type": "text", "text": "x", "image_url": {"url": "{url}"}},
    ],
    ids=str,
)
async def test_nothing_is_fetched_for_a_client(
    proxy: Proxy, key: str, part: dict[str, Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        content = json.loads(json.dumps([part]).replace("{url}", url))
        asked = {**GOOD, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        headers = {"x-portkey-custom-host": url, "x-api-base": url}
        async with proxy.client(key) as client:
            response = await client.post(CHAT, json=asked, headers=headers)
        if part["type"] != "text":
            assert response.status_code == 400
            assert url not in response.text
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_text_that_is_made_to_be_slow_to_check() -> None:
    """The patterns that look at whole texts take time in proportion to them. The bound is far from
    what they take: quadratic time would be an hour."""
    size = 2 << 20
    start = time.process_time()
    for unit in ("<|", "<|x", "[", "<", "<|im_start", "[INST", "</", "<\uff5c" + "x" * 64):
        neutralise(unit * (size // len(unit)))
    for raw in (b'"' * size, b'"\\' * (size // 2), b"[[" * size, b'{"a":"' + b"\\" * size):
        with pytest.raises(ApiError, match="body"):
            body.parse(raw)
    assert time.process_time() - start < 60


async def test_content_types_that_are_made_to_be_slow_to_read(proxy: Proxy, key: str) -> None:
    """A content type once took FastAPI's form parser minutes; here it is compared, not parsed."""
    slow = 'application/x-www-form-urlencoded; !="' + "\\" * 20_000
    answer = await exchange(
        proxy.port, head(key, f"content-type: {slow}", "content-length: 2", "connection: close"),
        b"{}", seconds=30,
    )  # fmt: skip
    assert status(answer) == 415
    async with httpx.AsyncClient(base_url=proxy.url) as client:
        parts = {"file": ("x" * 1000, b"y" * 10_000)}
        response = await client.post(CHAT, files=parts, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 415
