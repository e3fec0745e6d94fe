"""Reading and parsing bodies: every way in which one can be too much or not JSON."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy import body
from llamakit_proxy.errors import ApiError

JSON = (b"content-type", b"application/json")


def receive(*parts: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    messages = [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
        for index, part in enumerate(parts)
    ]

    async def next_message() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return next_message


async def test_read() -> None:
    assert await body.read([JSON], receive(b"whole"), 5) == b"whole"
    assert await body.read([JSON], receive(b"in ", b"", b"parts"), 8) == b"in parts"


@pytest.mark.parametrize("parts", [[b"123456"], [b"123", b"456"], [b"1"] * 7])
async def test_too_large_without_a_length(parts: list[bytes]) -> None:
    with pytest.raises(ApiError) as caught:
        await body.read([JSON], receive(*parts), 5)
    assert caught.value.status == 413
    assert caught.value.headers == {"Connection": "close"}


async def test_an_endless_body_is_not_read_to_its_end() -> None:
    taken = 0

    async def endless() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        # It never waits, so that no clock could end it.
        assert taken * 1000 < body.LINGER_BYTES + 20_000, "more was taken in than it lingers for"
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    with pytest.raises(ApiError):
        await body.read([JSON], endless, 10_000)
    # What the client is sending already is taken in, so that it sees the answer; not for ever.
    assert taken * 1000 >= body.LINGER_BYTES


@pytest.mark.parametrize("expects", [True, False])
async def test_who_waits_to_be_told_to_send_is_not_lingered_for(expects: bool) -> None:
    """uvicorn says "100 Continue" to the first look at a body, which would be asking for it."""
    taken = 0

    async def next_message() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x", "more_body": False}

    headers = [JSON, (b"content-length", b"101")]
    if expects:
        headers.append((b"expect", b"100-continue"))
    with pytest.raises(ApiError) as caught:
        await body.read(headers, next_message, 100)
    assert caught.value.status == 413
    assert taken == (0 if expects else 1)


async def test_a_slow_body() -> None:
    async def slow() -> dict[str, Any]:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(ApiError) as caught:
        await body.read([JSON], slow, 1000, seconds=0.1)
    assert caught.value.status == 408


async def test_the_client_left() -> None:
    with pytest.raises(body.ClientGoneError):
        await body.read([JSON], receive(), 5)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([JSON], None),
        ([(b"content-type", b"Application/JSON; Charset=UTF-8")], None),
        ([JSON, (b"content-length", b"100")], None),
        ([JSON, (b"content-encoding", b"identity")], None),
        ([JSON, (b"content-length", b"101")], 413),
        ([JSON, (b"content-length", b"-1")], 413),
        ([JSON, (b"content-encoding", b"gzip")], 415),
        ([JSON, (b"content-encoding", b"identity, zstd")], 415),
        ([], 415),
        ([(b"content-type", b"text/plain")], 415),
        ([(b"content-type", b"multipart/form-data; boundary=x")], 415),
        ([(b"content-type", b"application/json; charset=utf-16")], 415),
    ],
)
def test_headers(headers: list[tuple[bytes, bytes]], status: int | None) -> None:
    if status is None:
        body.check_headers(headers, 100)
        return
    with pytest.raises(ApiError) as caught:
        body.check_headers(headers, 100)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a": 1} x',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\x01"}',
        b'{"a": ' * 65 + b"1" + b"}" * 65,
        b'{"a": ' + b"[" * 100_000,
        b'{"a": [' + b"[]," * 200_001 + b"1]}",
        b'{"a": [' + b"1," * 200_001 + b"1]}",
        b'{"a": "' + b'\\"' * 500_000,
        b"[{" * 50 + b'"' + b'\\"[' * 300_000,
    ],
)
def test_what_is_refused(raw: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(ApiError) as caught:
        body.parse(raw)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"
    assert time.monotonic() - start < 2


def test_braces_in_a_text_are_text() -> None:
    code = "{[" * 10_000 + '\\" , ' * 200_000
    assert body.parse(json.dumps({"code": code}).encode()) == {"code": code}


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=20,
        ),
    ).filter(lambda document: "inf" not in repr(document))
)
def test_documents_survive(document: dict[str, Any]) -> None:
    parsed = body.parse(json.dumps(document).encode())
    assert parsed == document
    assert json.loads(body.dump(parsed)) == document


def test_half_a_surrogate_pair() -> None:
    parsed = body.parse(b'{"a": ["\\ud83d"]}')
    with pytest.raises(ApiError) as caught:
        body.dump(parsed)
    assert caught.value.status == 400
