"""JSON as it goes over the wire. json.loads and json.dumps make a new coder whenever they are
given an option; these are made once."""

import json
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER = json.JSONDecoder()


def encode(document: object) -> bytes:
    """A document as one line of UTF-8. UnicodeEncodeError for half a surrogate pair in a text."""
    return _ENCODER.encode(document).encode()


def encode_leniently(document: object) -> bytes:
    """The same with a question mark for half a surrogate pair: for what a backend wrote."""
    return _ENCODER.encode(document).encode("utf-8", errors="replace")


def decode(raw: bytes) -> Any:
    """What a backend wrote. ValueError when it is not JSON in UTF-8."""
    return _DECODER.decode(raw.decode())
