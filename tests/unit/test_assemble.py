"""Answers put together from a stream: texts that are cut out unread are the texts all the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit_proxy.assemble import Assembly
from llamakit_proxy.chunks import Chunks, Style
from llamakit_proxy.errors import ApiError

SPACED, COMPACT = (", ", ": "), (",", ":")
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ['"', "\\", '"content": "', '"finish_reason": null', "\u2028", "\0", "{", '","']
    ),
)


def payload(
    text: str,
    *,
    chat: bool,
    separators: tuple[str, str] = SPACED,
    ascii_only: bool = True,
    reason: str | None = None,
    model: str = "m",
    role: bool = False,
) -> bytes:
    """A chunk as a backend writes it."""
    choice: dict[str, Any] = {"index": 0}
    if chat:
        choice["delta"] = {"role": "assistant"} if role else {"content": text} if not reason else {}
    else:
        choice["text"] = text
    choice |= {"logprobs": None, "finish_reason": reason}
    chunk = {"id": "c", "object": "x", "created": 1, "model": model, "choices": [choice]}
    return json.dumps(chunk, separators=separators, ensure_ascii=ascii_only).encode()


@given(
    texts=st.lists(st.tuples(TEXTS, st.booleans()), max_size=12),
    cuts=st.lists(st.integers(0, 14), max_size=3),
    chat=st.booleans(),
    separators=st.sampled_from([SPACED, COMPACT]),
    ascii_only=st.booleans(),
)
def test_the_text_is_all_there(
    texts: list[tuple[str, bool]],
    cuts: list[int],
    chat: bool,
    separators: tuple[str, str],
    ascii_only: bool,
) -> None:
    """However the payloads come, and also when one is unlike the others."""
    form: dict[str, Any] = {"chat": chat, "separators": separators, "ascii_only": ascii_only}
    payloads = [payload("", role=True, **form)] if chat else []
    payloads += [payload(text, model="n" if other else "m", **form) for text, other in texts]
    payloads += [payload("", reason="stop", **form), b"[DONE]"]
    chunks = Chunks(Style(chat=chat))
    assembly = Assembly(chunks)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True):
        assembly.take(payloads[start:end])
    chunks.check_end()
    choice = assembly.document()["choices"][0]
    found = choice["message"]["content"] if chat else choice["text"]
    assert found == "".join(text for text, _ in texts)
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("inside", [b'"a","b"', b"", b'"a', b"1", b'"a": "b"', b'["a"]', b"\xff"])
def test_what_only_looks_like_a_chunk(inside: bytes) -> None:
    like = payload("one", chat=True)
    assembly = Assembly(Chunks(Style(chat=True)))
    assembly.take([like, like])
    assembly.take([like.replace(b'"one"', inside)])
    with pytest.raises(ApiError) as caught:
        assembly.take([b"[DONE]"])
    assert caught.value.status == 502


def test_an_error_among_the_chunks() -> None:
    like = payload("one", chat=True)
    with pytest.raises(ApiError):
        Assembly(Chunks(Style(chat=True))).take([like, like, b'{"error": {"message": "x"}}'])


def test_log_probabilities_are_kept() -> None:
    chunk = json.loads(payload("one", chat=True))
    chunk["choices"][0]["logprobs"] = {"content": [{"token": "one", "top_logprobs": []}]}
    chunks = Chunks(Style(chat=True, top_logprobs=0))
    assembly = Assembly(chunks)
    end = payload("", chat=True, reason="stop")
    assembly.take([json.dumps(chunk).encode()] * 3 + [end, b"[DONE]"])
    assert len(assembly.document()["choices"][0]["logprobs"]["content"]) == 3
