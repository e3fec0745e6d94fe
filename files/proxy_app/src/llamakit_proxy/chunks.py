"""What a backend's stream says: its chunks, one by one, and how the answer as a whole ended."""

import secrets
from dataclasses import dataclass
from typing import Any

from . import wire
from .errors import ApiError, invalid

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
    legacy_function: bool = False
    """The client speaks of ``functions``, not ``tools``."""
    top_logprobs: int | None = None
    n_ctx: int = 0
    max_tokens: int = 0

    @property
    def plain(self) -> bool:
        """Whether ordinary chunks are already what the client should see."""
        return self.tool is None and self.top_logprobs is None


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
        self._call_id = "" if style.tool is None else f"call_{secrets.token_hex(12)}"
        self._named = False
        self._last: dict[str, Any] | None = None

    def read(self, payload: bytes) -> bytes | None:
        """The chunk for the client as JSON, or None when there is nothing to show for this one.

        ApiError when the backend reports a failure or what it sent can't be read.
        """
        if self._plain and (_UNFINISHED in payload or _UNFINISHED_COMPACT in payload):
            return payload
        chunk = self.parse(payload)
        if chunk is None:
            return None
        return wire.encode_leniently(chunk)

    def parse(self, payload: bytes) -> dict[str, Any] | None:
        """Like ``read``, as a document."""
        if payload == b"[DONE]":
            self.done = True
            return None
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
                return None
            choice = choices[0]
            reason = choice["finish_reason"]
            if self.style.top_logprobs is not None:
                _trim_logprobs(choice, self.style)
            if self.style.tool is not None and not self._rewrite_call(choice):
                return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise unreadable() from error
        if reason is None:
            return dict(chunk)
        self.finish_reason = reason
        self._last = chunk
        return None

    def check_end(self) -> None:
        """ApiError 502 unless the stream came to its proper end."""
        if not self.done or self.finish_reason is None:
            raise ApiError(
                502,
                "backend_incomplete",
                "The model server ended the answer before it was complete.",
            )

    def closing(self) -> list[dict[str, Any]]:
        """The last chunks: the one with the finish reason, then usage when it was asked for."""
        last = self._last
        if last is None:
            return []
        choice = last["choices"][0]
        if self.style.tool is not None:
            choice["delta"] = {}
            choice["finish_reason"] = self._call_reason()
        chunks = [last]
        if self.style.include_usage and self.usage is not None:
            chunks.append({**last, "choices": [], "usage": self.usage.document()})
        return chunks

    @property
    def call_id(self) -> str:
        """The id of the one tool call in this answer."""
        return self._call_id

    def _call_reason(self) -> str:
        """The backend says "tool_calls" also when it was cut off in the middle of the arguments;
        the counts tell."""
        style, usage = self.style, self.usage
        if usage is not None and (
            usage.completion_tokens >= style.max_tokens
            or usage.prompt_tokens + usage.completion_tokens >= style.n_ctx
        ):
            self.finish_reason = "length"
        else:
            self.finish_reason = "function_call" if style.legacy_function else "tool_calls"
        return self.finish_reason

    def _rewrite_call(self, choice: dict[str, Any]) -> bool:
        """Write the delta of a tool call as OpenAI does: id and name once, then arguments alone.

        False when the delta then has nothing to say.
        """
        if choice["finish_reason"] is not None:
            return True
        delta = choice["delta"]
        calls = delta.get("tool_calls")
        if not calls:
            choice["delta"] = {"role": "assistant", "content": None}
            return bool(delta.get("role"))
        function = {"arguments": calls[0]["function"]["arguments"]}
        first, self._named = not self._named, True
        if first:
            function = {"name": self.style.tool, **function}
        if self.style.legacy_function:
            choice["delta"] = {"function_call": function}
        elif first:
            call = {"index": 0, "id": self._call_id, "type": "function", "function": function}
            choice["delta"] = {"tool_calls": [call]}
        else:
            choice["delta"] = {"tool_calls": [{"index": 0, "function": function}]}
        return True


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
