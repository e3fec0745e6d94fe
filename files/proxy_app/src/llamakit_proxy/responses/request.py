"""POST /v1/responses: the chat's request that is made of a response's."""

from dataclasses import replace
from functools import partial
from typing import Any

from llamakit_proxy import validate
from llamakit_proxy.errors import invalid
from llamakit_proxy.routes import Route
from llamakit_proxy.validate.fields import accept, require
from llamakit_proxy.validate.prepared import Prepared

from . import conversation, functions, text_format
from .answer import Answer
from .events import EventWriter
from .fields import FIELDS, LOGPROBS, MAX_METADATA, SAME
from .wording import own_words

_INCLUDABLE = frozenset(
    {
        LOGPROBS,
        "reasoning.encrypted_content",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    }
)
_REPEATED = ("user", "safety_identifier", "prompt_cache_key")
_FIXED = {
    "background": False,
    "max_tool_calls": None,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "store": False,
    "truncation": "disabled",
}
"""What an answer says of itself that is the same for every request."""


def prepare(body: dict[str, Any], route: Route) -> Prepared:
    """The backend's request for a response. Raises ApiError 400."""
    accepted = accept(body, FIELDS)
    require(accepted, ("input",))
    stream = accepted.get("stream", False)
    _check_stream_options(body.get("stream_options"), stream=stream)
    instructions = accepted.get("instructions")
    tools = functions.read(accepted.get("tools", []))
    text = text_format.read(accepted.get("text", {}))
    chat = {
        **{name: body.get(name) for name in SAME},
        "model": route.id,
        "messages": conversation.messages(accepted["input"], instructions),
        "stream": stream,
        # The last event has the usage, always.
        "stream_options": {"include_usage": True} if stream else None,
        "max_completion_tokens": accepted.get("max_output_tokens"),
        "response_format": text_format.of_chat(text),
        "tools": functions.of_chat(tools),
        "tool_choice": functions.choice_of_chat(accepted.get("tool_choice")),
        **_logprobs(accepted),
    }
    with own_words():
        prepared = validate.chat(chat, route)
    settings = {
        "model": route.id,
        "instructions": instructions,
        "max_output_tokens": accepted.get("max_output_tokens"),
        "temperature": prepared.document["temperature"],
        "top_p": prepared.document["top_p"],
        "top_logprobs": accepted.get("top_logprobs", 0),
        "text": text,
        "tools": tools,
        "tool_choice": accepted.get("tool_choice", "auto"),
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "metadata": _metadata(body.get("metadata") or {}),
        **{name: body.get(name) for name in _REPEATED},
        **_FIXED,
    }
    return replace(prepared, writer=partial(EventWriter, Answer(settings)))


def _check_stream_options(options: dict[str, Any] | None, *, stream: bool) -> None:
    if options is None:
        return
    if not stream:
        raise invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    for name, value in options.items():
        if name != "include_obfuscation" or not isinstance(value, bool):
            raise invalid(
                "'stream_options' may hold 'include_obfuscation' (a boolean). "
                "The last event has the usage, always.",
                param="stream_options",
            )


def _logprobs(accepted: dict[str, Any]) -> dict[str, Any]:
    """The fields of a chat that ask for log probabilities."""
    include = accepted.get("include", [])
    for wanted in include:
        if not isinstance(wanted, str) or wanted not in _INCLUDABLE:
            raise invalid(f"'include' may hold {', '.join(sorted(_INCLUDABLE))}.", param="include")
    if LOGPROBS in include:
        return {"logprobs": True, "top_logprobs": accepted.get("top_logprobs")}
    if accepted.get("top_logprobs"):
        raise invalid(f"'top_logprobs' needs '{LOGPROBS}' in 'include'.", param="top_logprobs")
    return {}


def _metadata(metadata: dict[str, Any]) -> dict[str, str]:
    if len(metadata) > MAX_METADATA:
        raise invalid(f"'metadata' has more than {MAX_METADATA} entries.", param="metadata")
    for name, value in metadata.items():
        if len(name) > 64 or not isinstance(value, str) or len(value) > 512:
            raise invalid(
                "'metadata' must map names of up to 64 characters to texts of up to 512.",
                param="metadata",
            )
    return metadata
