"""JSON as it goes over the wire.

pydantic's core, which FastAPI brings, writes and reads a document in a third of the time of the
standard library. What it refuses, half of a surrogate pair above all, is for the standard library:
that takes it, or says what is wrong with it.
"""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

_COMPACT = (",", ":")


def encode_line(document: object) -> bytes:
    """A document as one line of ASCII: what is none, and all control characters, is escaped."""
    try:
        return to_json(document, ensure_ascii=True)
    except PydanticSerializationError:
        return json.dumps(document, separators=_COMPACT).encode()


def encode_strictly(document: object) -> bytes:
    """The same. ValueError for a number that JSON has no form for."""
    line = encode_line(document)
    if b"NaN" in line or b"Infinity" in line:
        # Most likely inside a text.
        return json.dumps(document, separators=_COMPACT, allow_nan=False).encode()
    return line


def encode(document: object) -> bytes:
    """A document as one line of UTF-8. UnicodeEncodeError for half a surrogate pair in a text."""
    try:
        return to_json(document)
    except PydanticSerializationError:
        return _encode(document).encode()


def encode_leniently(document: object) -> bytes:
    """The same with a question mark for half a surrogate pair: for what a backend wrote."""
    try:
        return to_json(document)
    except PydanticSerializationError:
        return _encode(document).encode("utf-8", errors="replace")


def decode(raw: bytes) -> Any:
    """What a backend wrote. ValueError when it is not JSON in UTF-8."""
    try:
        return from_json(raw)
    except ValueError:
        return json.loads(raw.decode())


def _encode(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=_COMPACT)
