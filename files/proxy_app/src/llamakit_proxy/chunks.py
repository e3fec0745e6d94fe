"""What a backend's stream says: its chunks, one by one, and how the answer as a whole ended."""

from dataclasses import dataclass
from typing import Any

from . import wire
from .errors import ApiError, invalid
from .tool_calls import Call, Calling, CallReader, Dialect

Chunk = dict[str, Any]

_UNFINISHED = b'"finish_reason": null'
_UNFINISHED_COMPACT = b'"finish_reason":null'
"""One of them is in every chunk but the last. Inside a text the quotes would be escaped, so the
bytes alone tell that a chunk is an ordinary one that can go on as it is."""


@dataclass(frozen=True, slots=True)
class Style:
    """How the client wants its answer written."""

    chat: bool
    include_usage: bool = False
    tool: str | None = None
    """The function the model was made to call; its arguments are what the backend generates."""
    calling: Calling | None = None
    """How calls are found in what the backend generates."""
    legacy_function: bool = False
    """The client speaks of ``functions``, not ``tools``."""
    top_logprobs: int | None = None
    n_ctx: int = 0
    index: int = 0
    """Which of the answer's choices this stream is."""
    answer_id: str | None = None
    """The id that all choices of the answer have; None for the backend's own."""

    @property
    def plain(self) -> bool:
        """Whether ordinary chunks are already what the client should see."""
        return (
            self.tool is None
            and self.calling is None
            and self.top_logprobs is None
            and self.answer_id is None
        )


@dataclass(slots=True)
class Usage:
    """Tokens, as the backend counted them."""

    prompt_tokens: int
    completion_tokens: int

    def document(self) -> dict[str, int]:
        """The ``usage`` object of an answer."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Chunks:
    """Reads the payloads of one stream and writes the chunks for the client.

    After the last payload, ``check_end`` tells whether the answer is whole.
    """

    def __init__(self, style: Style) -> None:
        self.style = style
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.done = False
        self._plain = style.plain
        self._reader = None if style.calling is None else CallReader(style.calling)
        self._dialect = Dialect() if style.calling is None else style.calling.dialect
        self._calls = 0
        self._last: Chunk | None = None

    def read(self, payload: bytes) -> list[bytes]:
        """The chunks for the client as JSON; none when there is nothing to show for this one.

        ApiError when the backend reports a failure or what it sent can't be read.
        """
        if self.is_ordinary(payload):
            return [payload]
        return [wire.encode_leniently(chunk) for chunk in self.parse(payload)]

    def is_ordinary(self, payload: bytes) -> bool:
        """Whether the payload is what the client should see, and there is more to come."""
        return self._plain and (
            payload.find(_UNFINISHED) >= 0 or payload.find(_UNFINISHED_COMPACT) >= 0
        )

    def parse(self, payload: bytes) -> list[Chunk]:
        """Like ``read``, as documents."""
        if payload == b"[DONE]":
            self.done = True
            return []
        try:
            chunk = wire.decode(payload)
            if "error" in chunk:
                raise failure(chunk["error"], self.style)
            choices = chunk["choices"]
            if chunk.get("usage"):
                usage = chunk["usage"]
                self.usage = Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
                chunk.pop("usage")
            if not choices:
                return []
            choice = choices[0]
            reason = choice["finish_reason"]
            if self.style.top_logprobs is not None:
                _trim_logprobs(choice, self.style)
            if self.style.answer_id is not None:
                chunk["id"], choice["index"] = self.style.answer_id, self.style.index
            deltas = self._deltas(choice)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise unreadable() from error
        if reason is None:
            return [chunk] if deltas is None else _spread(chunk, deltas)
        chunks = _spread({**chunk, "choices": [{**choice, "finish_reason": None}]}, deltas or [])
        if deltas is not None:
            choice["delta"] = {}
        choice["finish_reason"] = self.finish_reason = self._reason(reason)
        self._last = chunk
        return chunks

    def check_end(self) -> None:
        """ApiError 502 unless the stream came to its proper end."""
        if not self.done or self.finish_reason is None:
            raise ApiError(
                502,
                "backend_incomplete",
                "The model server ended the answer before it was complete.",
            )

    def closing(self) -> list[Chunk]:
        """The last chunks: the one with the finish reason, then usage when it was asked for."""
        last = self._last
        if last is None:
            return []
        chunks = [last]
        if self.style.include_usage and self.usage is not None:
            chunks.append({**last, "choices": [], "usage": self.usage.document()})
        return chunks

    def _reason(self, reason: str) -> str:
        """Why the answer ended; calls that are cut off end by their length."""
        if reason != "stop" or not self._calls:
            return reason
        return "function_call" if self.style.legacy_function else "tool_calls"

    def _deltas(self, choice: dict[str, Any]) -> list[dict[str, Any]] | None:
        """What the client gets of a choice with calls; None for the choice as it is."""
        if self._reader is None and self.style.tool is None:
            return None
        text = choice["delta"].get("content") or ""
        begins, over = bool(choice["delta"].get("role")), choice["finish_reason"] is not None
        deltas: list[dict[str, Any]] = []
        if self._reader is None:
            if begins:
                head = self._call_delta(Call(self.style.tool or "", ""))
                deltas.append({"role": "assistant", "content": None, **head})
            if text:
                deltas.append(self._more_arguments(text))
            return deltas
        if begins:
            deltas.append({"role": "assistant", "content": None})
        found = self._reader.feed(text) + (self._reader.finish() if over else [])
        deltas += [
            {"content": part} if isinstance(part, str) else self._call_delta(part) for part in found
        ]
        if not deltas and choice.get("logprobs"):
            # They are of text that is held back until it is known not to be a call.
            deltas.append({"content": ""})
        return deltas

    def _call_delta(self, call: Call) -> dict[str, Any]:
        """The delta that begins a call; the arguments may go on in others."""
        function = {"name": call.name, "arguments": call.arguments}
        index, self._calls = self._calls, self._calls + 1
        if self.style.legacy_function:
            return {"function_call": function}
        call_id = self._dialect.call_id()
        entry = {"index": index, "id": call_id, "type": "function", "function": function}
        return {"tool_calls": [entry]}

    def _more_arguments(self, text: str) -> dict[str, Any]:
        if self.style.legacy_function:
            return {"function_call": {"arguments": text}}
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}


def _spread(chunk: Chunk, deltas: list[dict[str, Any]]) -> list[Chunk]:
    """One chunk for each delta; the log probabilities go with the first."""
    choice = chunk["choices"][0]
    spread = []
    for delta in deltas:
        spread.append({**chunk, "choices": [{**choice, "delta": delta}]})
        choice = {**choice, "logprobs": None}
    return spread


def failure(error: object, style: Style | None = None) -> ApiError:
    """The client's error for one that a backend reported; only codes and counts are taken over."""
    details = error if isinstance(error, dict) else {}
    code = details.get("code")
    if code == "context_length_exceeded":
        return too_long(details.get("prompt_tokens"), details.get("n_ctx"), style)
    if code == "invalid_grammar":
        return invalid(
            "The model server can't enforce this JSON schema. Use a simpler one.",
            param="response_format",
            code="unsupported_schema",
        )
    if code == "template_failed":
        return invalid(
            "The model's chat template does not take these messages; "
            "often it wants user and assistant to alternate.",
            param="messages",
            code="unsupported_messages",
        )
    return ApiError(502, "backend_error", "The model server failed on this request.")


def unreadable() -> ApiError:
    """502: what a backend sent is not what backends send."""
    return ApiError(502, "backend_error", "The model server sent something that can't be read.")


def too_long(tokens: object, n_ctx: object, style: Style | None = None) -> ApiError:
    """400: the prompt does not fit into the model's context."""
    held = n_ctx if isinstance(n_ctx, int) else style.n_ctx if style else None
    limit = f"{held} tokens" if held else "fewer tokens"
    found = f"{tokens} tokens" if isinstance(tokens, int) else "more"
    param = "input" if style is None else "messages" if style.chat else "prompt"
    return invalid(
        f"This model's maximum context length is {limit}, but your request has {found}. "
        "Shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def _trim_logprobs(choice: dict[str, Any], style: Style) -> None:
    """The backend adds the chosen token to the most likely ones; OpenAI's chat does not."""
    logprobs = choice.get("logprobs")
    if style.chat and logprobs:
        for entry in logprobs.get("content") or ():
            del entry["top_logprobs"][style.top_logprobs :]
