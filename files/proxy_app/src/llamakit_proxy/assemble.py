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
            chunk = self._chunks.parse(payload)
            if chunk is not None:
                self.add(chunk)
                before, after = _around_text(payload, chunk["choices"][0], self._chunks.style)
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
            self._texts.append(self._delta_text(choice["delta"]))
        else:
            self._texts.append(choice["text"])
        for name, values in (choice.get("logprobs") or {}).items():
            if values is not None:
                self._logprobs.setdefault(name, []).extend(values)

    def document(self) -> dict[str, Any]:
        """The whole answer; only after the chunks came to their proper end."""
        if self._cut:
            self._read_cut()
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

    def _choice(self, finish_reason: str) -> dict[str, Any]:
        text = "".join(self._texts)
        style = self._chunks.style
        choice: dict[str, Any] = {"index": 0}
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
        style = self._chunks.style
        if style.tool is None:
            return {"role": "assistant", "content": text}
        function = {"name": style.tool, "arguments": text}
        if style.legacy_function:
            return {"role": "assistant", "content": None, "function_call": function}
        call = {"id": self._chunks.call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    @staticmethod
    def _delta_text(delta: dict[str, Any]) -> str:
        if calls := delta.get("tool_calls"):
            return str(calls[0]["function"]["arguments"])
        if call := delta.get("function_call"):
            return str(call["arguments"])
        return delta.get("content") or ""


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
