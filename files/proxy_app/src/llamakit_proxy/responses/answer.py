"""The objects a response is made of, as OpenAI writes them."""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

from llamakit_proxy.errors import ApiError

Status = Literal["in_progress", "completed", "incomplete", "failed"]
Document = dict[str, Any]

_ERRORS = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""A failure's code by its status. OpenAI's list of them has none of ours."""


class Answer:
    """One response. Its id, its time and what it repeats of the request stay the same while it
    is made; the rest is given to ``document``."""

    def __init__(self, settings: Document) -> None:
        self._settings = settings
        self._id = new_id("resp")
        self._created_at = int(time.time())

    def document(
        self,
        status: Status,
        output: Sequence[Document] = (),
        *,
        usage: Document | None = None,
        error: ApiError | None = None,
    ) -> Document:
        """The ``response`` object. ``usage`` is a chat's."""
        cut = status == "incomplete"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None if error is None else _failure(error),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": list(output),
            "usage": None if usage is None else _usage(usage),
            **self._settings,
        }

    def of_chat(self, answer: Document) -> Document:
        """The ``response`` object for a whole ``chat.completion``."""
        choice = answer["choices"][0]
        text, calls = choice["message"].get("content"), choice["message"].get("tool_calls") or []
        output = []
        if text or not calls:
            part = text_part(text or "", log_probabilities(choice))
            output.append(message(new_id("msg"), "completed", [part]))
        for asked in calls:
            function = asked["function"]
            output.append(
                call(
                    new_id("fc"),
                    "completed",
                    call_id=asked["id"],
                    name=function["name"],
                    arguments=function["arguments"],
                )
            )
        status = output[-1]["status"] = status_of(choice["finish_reason"])
        return self.document(status, output, usage=answer.get("usage"))


def status_of(finish_reason: str) -> Status:
    """How a response ended whose chat ended so."""
    return "incomplete" if finish_reason == "length" else "completed"


def new_id(kind: str) -> str:
    """An id that nothing else has: ``kind``, an underscore, 48 hexadecimal digits."""
    return f"{kind}_{secrets.token_hex(24)}"


def message(id_: str, status: Status, content: list[Document]) -> Document:
    """An output item with text."""
    return {
        "id": id_,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def text_part(text: str, logprobs: Sequence[Document] = ()) -> Document:
    """What a message's content is made of."""
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": list(logprobs),
    }


def call(id_: str, status: Status, *, call_id: str, name: str, arguments: str) -> Document:
    """An output item that asks for a function. ``id_`` names the item, ``call_id`` the call."""
    return {
        "id": id_,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def log_probabilities(choice: Document) -> list[Document]:
    """The tokens of a chat's choice with their log probabilities; [] when nobody asked."""
    return [_token(entry) for entry in (choice.get("logprobs") or {}).get("content") or ()]


def _token(entry: Document) -> Document:
    """With its bytes, which llama_cpp.server leaves out."""
    raw = entry["token"].encode(errors="replace")
    token = {**entry, "bytes": entry.get("bytes") or list(raw)}
    if "top_logprobs" in entry:
        token["top_logprobs"] = [_token(top) for top in entry["top_logprobs"]]
    return token


def _usage(usage: Document) -> Document:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def _failure(error: ApiError) -> Document:
    return {"code": _ERRORS.get(error.status, "server_error"), "message": error.message}
