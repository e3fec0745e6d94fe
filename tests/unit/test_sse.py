"""Events arrive in pieces that know nothing of their borders."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy import sse
from support.fake_backend import chunked

PAYLOADS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1).map(str.encode),
    max_size=8,
)


@given(
    payloads=PAYLOADS,
    newline=st.sampled_from([b"\n", b"\r\n"]),
    cuts=st.lists(st.integers(0, 400)),
    comment=st.booleans(),
)
def test_any_pieces(payloads: list[bytes], newline: bytes, cuts: list[int], comment: bool) -> None:
    text = b""
    for payload in payloads:
        if comment:
            text += b": ping - 2026" + newline * 2
        text += b"data: " + payload + newline * 2
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    splitter = sse.Splitter()
    seen = []
    for start, end in pairwise(borders):
        seen += splitter.feed(text[start:end])
    assert seen == payloads


def test_other_fields_and_several_lines() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"event: x\nid: 3\ndata:one\ndata: two\n\nretry: 5\n\n") == [b"one\ntwo"]


def test_an_event_without_an_end() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: ") == []
    with pytest.raises(sse.EventTooLargeError):
        splitter.feed(b"x" * sse.MAX_EVENT)


def test_what_an_event_says_is_one_line_for_every_reader() -> None:
    """h3, FastAPI and Hono let a line break in the data begin a field, or an event, of its own."""
    for text in ("a\u2028b", "a\u2029b", "a\x85b", "a\n\ndata: [DONE]\n\n", "a\r\nevent: x\r\r"):
        for pretty in (None, 1):
            payload = json.dumps({"text": text}, ensure_ascii=False, indent=pretty).encode()
            event = sse.event(payload)
            # str.splitlines knows more line ends than the standard does; some clients use it.
            field, empty = event.decode().removesuffix("\n").splitlines(), event[-2:]
            assert (len(field), empty) == (1, b"\n\n")
            assert json.loads(field[0].removeprefix("data: ")) == {"text": text}
            assert sse.Splitter().feed(event) == [event[6:-2]]


def test_ordinary_text_of_any_language_goes_as_it_is() -> None:
    payload = json.dumps({"text": "naïve — “日本” …"}, ensure_ascii=False).encode()
    assert sse.event(payload) == b"data: " + payload + b"\n\n"


EVENT = b'data: {"text": "it \\n \xe2\x82\xac"}\n\n'


def test_an_event_that_goes_as_it_is() -> None:
    assert sse.framed_size(chunked(EVENT)) == len(EVENT)


@given(
    st.text(st.sampled_from('data: \r\n\u2028\x85\u20ac{"'), max_size=24).map(str.encode),
    st.sampled_from([b"", b"data: "]),
    st.sampled_from([b"", b"\n", b"\n\n"]),
)
def test_what_goes_as_it_is_would_be_written_like_that(
    middle: bytes, before: bytes, after: bytes
) -> None:
    data = before + middle + after
    size = sse.framed_size(chunked(data))
    if size:
        assert size == len(data)
        payload = data[6:-2]
        assert sse.Splitter().feed(data) == [payload]
        assert sse.event(payload) == data


WHOLE = chunked(EVENT)


@pytest.mark.parametrize(
    "framed",
    [
        WHOLE[:-1], WHOLE[:-2], WHOLE[1:], b"0" + WHOLE, b"+" + WHOLE, WHOLE.upper(),
        WHOLE.replace(b"\r\n", b";x=y\r\n", 1), WHOLE.replace(b"\r\n", b"\n", 1), WHOLE + WHOLE,
        WHOLE + b"0\r\n\r\n", b"0\r\n\r\n", b"\r\n", b"\n", b"", EVENT,
    ],
)  # fmt: skip
def test_what_is_not_exactly_such_a_chunk(framed: bytes) -> None:
    """More, less, or a length that not everybody reads alike."""
    assert sse.framed_size(framed) == 0
