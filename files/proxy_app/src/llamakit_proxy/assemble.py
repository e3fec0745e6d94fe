"""From the chunks of a stream to the one document a client without ``stream`` expects."""

import re
from collections.abc import Iterable
from typing import Any

from . import wire
from .chunks import Chunks, Style, unreadable

_TEXT = re.compile(rb'"(?:content|text)": ?("[^"\\]*+(?:\\.[^"\\]*+)*+")')
"""The text of a chunk, its quotes included. A key has plain quotes, inside a text they would be
escaped, so this finds nothing else."""


class Assembly:
    """Collects the payloads of a stream.

    An answer's chunks differ in their text alone. Of those that are like the one before, all but
    the text, the text is cut out unread, and all the texts are read in one go: that costs a
    tenth of reading each chunk.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._first: dict[str, Any] | None = None
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._arguments: list[str] = []
        """Of the last call."""
        self._logprobs: dict[str, list[Any]] = {}
        self._before = self._after = b""
        """What the last chunk that was read had around its text; empty when that is no help."""
        self._cut: list[bytes] = []
        """Texts as JSON, not read yet."""

    def take(self, payloads: Iterable[bytes]) -> None:
        """The next payloads. ApiError like ``Chunks.parse``."""
        before, after = self._before, self._after
        start, end = len(before), -len(after)
        for payload in payloads:
            if before and payload.startswith(before) and payload.endswith(after):
                self._cut.append(payload[start:end])
                continue
            if self._cut:
                self._read_cut()
            chunks = self._chunks.parse(payload)
            for chunk in chunks:
                self.add(chunk)
            if chunks:
                before, after = _around_text(payload, chunks[0]["choices"][0], self._chunks.style)
                start, end = len(before), -len(after)
        self._before, self._after = before, after

    def _read_cut(self) -> None:
        try:
            texts = wire.decode(b"[%b]" % b",".join(self._cut))
        except ValueError as error:
            raise unreadable() from error
        if len(texts) != len(self._cut) or set(map(type, texts)) != {str}:
            raise unreadable()
        self._texts += texts
        self._cut.clear()

    def add(self, chunk: dict[str, Any]) -> None:
        """Take in one chunk, as ``Chunks.parse`` gives it."""
        if self._first is None:
            self._first = chunk
        choice = chunk["choices"][0]
        if self._chunks.style.chat:
            self._add_delta(choice["delta"])
        else:
            self._texts.append(choice["text"])
        for name, values in (choice.get("logprobs") or {}).items():
            if values is not None:
                self._logprobs.setdefault(name, []).extend(values)

    def document(self) -> dict[str, Any]:
        """The whole answer; only after the chunks came to their proper end."""
        closing = self._chunks.closing()
        first = self._first or closing[0]
        answer: dict[str, Any] = {
            "id": first["id"],
            "object": "chat.completion" if self._chunks.style.chat else "text_completion",
            "created": first["created"],
            "model": first["model"],
            "choices": [self._choice(closing[0]["choices"][0]["finish_reason"])],
        }
        if self._chunks.usage is not None:
            answer["usage"] = self._chunks.usage.document()
        return answer

    def _add_delta(self, delta: dict[str, Any]) -> None:
        self._texts.append(delta.get("content") or "")
        for call in delta.get("tool_calls") or ():
            self._add_call(call, call["function"])
        if function := delta.get("function_call"):
            self._add_call(function, function)

    def _add_call(self, call: dict[str, Any], function: dict[str, Any]) -> None:
        """The beginning of a call, or more of its arguments."""
        if "name" in function:
            self._close_call()
            self._calls.append(call)
        self._arguments.append(function["arguments"])

    def _close_call(self) -> None:
        if self._calls:
            call = self._calls[-1]
            call.get("function", call)["arguments"] = "".join(self._arguments)
        self._arguments.clear()

    def _choice(self, finish_reason: str) -> dict[str, Any]:
        text = "".join(self._texts)
        style = self._chunks.style
        choice: dict[str, Any] = {"index": style.index}
        if style.chat:
            choice["message"] = self._message(text)
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs_document() if self._logprobs else None
        choice["finish_reason"] = finish_reason
        return choice

    def _logprobs_document(self) -> dict[str, Any]:
        if self._chunks.style.chat:
            return {"content": self._logprobs.get("content", []), "refusal": None}
        return dict(self._logprobs)

    def _message(self, text: str) -> dict[str, Any]:
        if not self._calls:
            return {"role": "assistant", "content": text, "refusal": None}
        self._close_call()
        message = {"role": "assistant", "content": text or None, "refusal": None}
        if self._chunks.style.legacy_function:
            return {**message, "function_call": self._calls[0]}
        calls = [
            {key: value for key, value in call.items() if key != "index"} for call in self._calls
        ]
        return {**message, "tool_calls": calls}


def _around_text(payload: bytes, choice: dict[str, Any], style: Style) -> tuple[bytes, bytes]:
    """What a chunk has before and after its text; empty when others can't be told by that."""
    if not style.plain or choice.get("logprobs"):
        return b"", b""
    if "delta" in choice and choice["delta"].keys() != {"content"}:
        return b"", b""
    text = _TEXT.search(payload)
    if text is None:
        return b"", b""
    return payload[: text.start(1)], payload[text.end(1) :]
