"""From the chunks of a stream to the one document a client without ``stream`` expects."""

from typing import Any

from .chunks import Chunks


class Assembly:
    """Collects chunks as ``Chunks.parse`` gives them."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._first: dict[str, Any] | None = None
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._arguments: list[str] = []
        """Of the last call."""
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk in."""
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
