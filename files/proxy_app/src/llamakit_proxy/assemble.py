"""From the chunks of a stream to the one document a client without ``stream`` expects."""

from typing import Any

from .chunks import Chunks


class Assembly:
    """Collects chunks as ``Chunks.parse`` gives them."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._first: dict[str, Any] | None = None
        self._texts: list[str] = []
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk in."""
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
