"""JSON as it goes over the wire. json.loads and json.dumps make a new coder for each document,
which costs as much as a short document; these are made once."""

import json
from collections.abc import Callable
from json.encoder import (  # type: ignore[attr-defined]
    c_make_encoder,
    encode_basestring,
    encode_basestring_ascii,
)
from typing import Any


def _encoder(
    text: Callable[[str], str], item: str, key: str, *, nan: bool = True
) -> Callable[[object], str]:
    """What json.JSONEncoder makes anew each time. It does not look for a document that holds
    itself: none of ours can."""
    pieces = c_make_encoder(None, _refuse, text, None, key, item, False, False, nan)
    return lambda document: "".join(pieces(document, 0))


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode = _encoder(encode_basestring, ",", ":")
_encode_ascii = _encoder(encode_basestring_ascii, ", ", ": ")
_encode_strictly = _encoder(encode_basestring_ascii, ",", ":", nan=False)
_DECODER = json.JSONDecoder()


def encode_line(document: object) -> bytes:
    """A document as one line of ASCII, for people: what is none, and all control characters, is
    escaped."""
    return _encode_ascii(document).encode()


def encode_strictly(document: object) -> str:
    """A document as one line of ASCII. ValueError for a number that JSON has no form for."""
    return _encode_strictly(document)


def encode(document: object) -> bytes:
    """A document as one line of UTF-8. UnicodeEncodeError for half a surrogate pair in a text."""
    return _encode(document).encode()


def encode_leniently(document: object) -> bytes:
    """The same with a question mark for half a surrogate pair: for what a backend wrote."""
    return _encode(document).encode("utf-8", errors="replace")


def decode(raw: bytes) -> Any:
    """What a backend wrote. ValueError when it is not JSON in UTF-8."""
    text = raw.decode()
    if text[:1] == "{":
        # decode looks for white space on both sides, which costs as much as a short document.
        document, end = _DECODER.raw_decode(text)
        if end == len(text):
            return document
    return _DECODER.decode(text)
