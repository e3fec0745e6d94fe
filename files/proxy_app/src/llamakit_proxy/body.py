"""The request's body: read under a cap and against the clock, parsed strictly."""

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NoReturn

from . import wire
from .errors import ApiError, invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

READ_TIMEOUT_SECONDS = 30.0
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20
MAX_DEPTH = 64
MAX_VALUES = 200_000

# A text without its closing quote matches to the end: that keeps the scan linear for any input.
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]},]', re.DOTALL)


class ClientGoneError(Exception):
    """The client left before its request was complete."""


async def read(
    headers: Iterable[tuple[bytes, bytes]],
    receive: Receive,
    limit: int,
    seconds: float = READ_TIMEOUT_SECONDS,
    *,
    has_come: bool = False,
) -> bytes:
    """The whole body. ApiError 413 over ``limit`` bytes, 408 after ``seconds``, 415 for what the
    headers alone show not to be JSON. With ``has_come`` there is nothing to wait for."""
    headers = list(headers)
    try:
        check_headers(headers, limit)
        if has_come:
            return await _read(receive, limit)
        async with asyncio.timeout(seconds):
            return await _read(receive, limit)
    except TimeoutError:
        raise _closing(
            408, "request_timeout", f"The body was not complete after {seconds:g} seconds."
        ) from None
    except ApiError:
        if all(name != b"expect" for name, _ in headers):
            await _linger(receive)
        raise


async def _linger(receive: Receive) -> None:
    """Take in and drop what the client is sending for a moment. Closing a connection with unread
    bytes resets it, and the client would not see the answer that says what is wrong."""
    dropped = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while dropped < LINGER_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def check_headers(headers: Iterable[tuple[bytes, bytes]], limit: int) -> None:
    """Refuse what the headers alone show to be wrong, before a byte of the body is read."""
    content_type = b""
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise _closing(
                415,
                "unsupported_content_encoding",
                "This body is compressed; send it without a Content-Encoding.",
            )
        elif name == b"content-length" and (not value.isdigit() or int(value) > limit):
            raise _too_large(limit)
    media_type, _, parameters = content_type.partition(b";")
    charset = parameters.strip().lower().replace(b'"', b"")
    if media_type.strip().lower() != b"application/json" or charset not in (
        b"",
        b"charset=utf-8",
        b"charset=utf8",
    ):
        raise _closing(
            415,
            "unsupported_content_type",
            "Expected the header Content-Type: application/json (in UTF-8).",
        )


async def _read(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    first: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(first) > limit:
            raise _too_large(limit)
        return first
    parts, size = [first], len(first)
    while message.get("more_body", False):
        if size > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``; ApiError 400 for everything else.

    Stricter than json.loads: UTF-8 only, no NaN or infinities, no nesting or number of values
    that costs far more to hold than to send. A key given twice has its last value, which is
    harmless because what goes on to a backend is written anew from the result.
    """
    _check_shape(raw)
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError:
        raise invalid("The body is not UTF-8 text.", code="invalid_json") from None
    except json.JSONDecodeError as error:
        raise invalid(
            f"The body is not JSON: {error.msg} at line {error.lineno} column {error.colno}.",
            code="invalid_json",
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise invalid("The body has a number no one can hold.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise invalid("The body must be a JSON object.", code="invalid_json")
    return value


def dump(document: dict[str, Any]) -> bytes:
    """The document as UTF-8 JSON for a backend; ApiError 400 when its text is not Unicode."""
    try:
        return wire.encode(document)
    except UnicodeEncodeError:
        raise invalid(
            "The body has half of a surrogate pair (\\ud800 … \\udfff) alone in a text.",
            code="invalid_json",
        ) from None


def _check_shape(raw: bytes) -> None:
    """Depth and number of values. Counting bytes answers for nearly all bodies; only one that
    might be too much is scanned."""
    opened = raw.count(b"{") + raw.count(b"[")
    if opened <= MAX_DEPTH and raw.count(b",") + opened <= MAX_VALUES:
        return
    depth = values = 0
    for match in _STRUCTURE.finditer(raw):
        mark = match.group()
        if mark in (b"[", b"{"):
            depth += 1
            values += 1
            if depth > MAX_DEPTH:
                raise _too_deep()
        elif mark in (b"]", b"}"):
            depth -= 1
        elif mark == b",":
            values += 1
            if values > MAX_VALUES:
                raise invalid(f"The body has more than {MAX_VALUES} values.", code="invalid_json")


def _too_deep() -> ApiError:
    return invalid(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _too_large(limit: int) -> ApiError:
    return _closing(
        413, "request_too_large", f"The body is larger than the {limit} bytes allowed here."
    )


def _closing(status: int, code: str, message: str) -> ApiError:
    """An error after which the connection can't be used: its body was not read to the end."""
    return ApiError(status, code, message, headers={"Connection": "close"})


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
