"""JSON on the wire: what two libraries write and read between them."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy import wire

HALF = "half \ud83d of a pair"
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_every_form_of_a_document_says_the_same(document: Any) -> None:
    for write in (wire.encode, wire.encode_leniently, wire.encode_line):
        raw = write(document)
        assert b"\n" not in raw
        assert wire.decode(raw) == json.loads(raw) == document
    assert wire.encode_line(document).isascii()


@given(st.text())
def test_a_line_is_one_line_of_ascii_whatever_the_text(text: str) -> None:
    line = wire.encode_line({"text": text})
    assert line.isascii()
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"text": text}


def test_half_of_a_surrogate_pair() -> None:
    with pytest.raises(UnicodeEncodeError):
        wire.encode({"text": HALF})
    assert wire.encode_leniently({"text": HALF}) == b'{"text":"half ? of a pair"}'
    assert wire.decode(json.dumps(HALF).encode()) == HALF


def test_what_is_deeper_than_one_of_them_goes() -> None:
    for write in (wire.encode, wire.encode_leniently, wire.encode_line):
        assert wire.decode(write(DEEP)) == DEEP


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_form(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        wire.encode_strictly({"ms": number})


def test_their_names_are_texts_like_others() -> None:
    assert wire.encode_strictly({"user": "NaN Infinity"}) == b'{"user":"NaN Infinity"}'


@pytest.mark.parametrize("raw", [b"", b"{", b"[1,]", b"{} {}", b"\xff", b'"\xff"', b"nul"])
def test_what_is_no_json(raw: bytes) -> None:
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
        wire.decode(raw)


@pytest.mark.parametrize("document", [object(), {"when": object()}, [b"\xff"]])
def test_what_has_no_form_is_a_mistake_of_ours(document: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        wire.encode(document)
