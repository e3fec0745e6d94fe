"""POST /v1/responses: its fields, and the chat's request made of them."""

from dataclasses import replace
from functools import partial
from typing import Any

from llamakit_proxy import validate
from llamakit_proxy.errors import invalid
from llamakit_proxy.routes import Route
from llamakit_proxy.validate.fields import Field, accept, require, table
from llamakit_proxy.validate.prepared import Prepared

from . import conversation, functions, text_format
from .answer import Answer
from .events import EventWriter

_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat_mode",
    "mirostat_tau",
    "mirostat_eta",
    "seed",
    "stop",
    "logit_bias",
    "parallel_tool_calls",
)
"""Fields that are a chat's own and go to it as they are."""
_NO_EFFECT = (
    "store",
    "user",
    "safety_identifier",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
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
LOGPROBS = "message.output_text.logprobs"
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
MAX_METADATA = 16

_RESEND = "Nothing is stored here: send the whole conversation in 'input'."


def _of_chat(*names: str) -> list[Field]:
    return [validate.CHAT_FIELDS[name] for name in names]


FIELDS = table(
    *_of_chat("model"),
    Field(
        "input",
        "any",
        "translated",
        "A text, or items: messages, function_call, function_call_output; reasoning is left out.",
    ),
    Field("instructions", "string", "translated", "Becomes the first message, of role system."),
    *_of_chat("stream"),
    Field(
        "stream_options",
        "object",
        "ignored",
        "`include_obfuscation`, only with `stream`. There is no obfuscation.",
    ),
    Field(
        "max_output_tokens",
        "integer",
        "translated",
        "Most tokens of the answer, up to the model's own limit, which is the default.",
        1,
    ),
    Field(
        "text",
        "object",
        "translated",
        "`format`: `text`, `json_object`, or `json_schema` within the supported part of JSON "
        "Schema. `verbosity` has no effect.",
    ),
    Field("tools", "array", "translated", "Functions. There are no built-in tools."),
    Field("tool_choice", "any", "translated", "As in a chat; a function is named flatly."),
    Field(
        "include",
        "array",
        "translated",
        f"`{LOGPROBS}`, for a model whose route says so. The others OpenAI has have no effect.",
    ),
    Field(
        "top_logprobs",
        "integer",
        "translated",
        f"Only with `{LOGPROBS}` in `include`.",
        0,
        20,
    ),
    *_of_chat(*_SAME),
    Field(
        "metadata",
        "object",
        "ignored",
        f"Comes back in the answer: up to {MAX_METADATA} texts by name.",
    ),
    *_of_chat(*_NO_EFFECT),
    Field("reasoning", "object", "ignored", "The models here have no such switch."),
    Field(
        "max_tool_calls", "integer", "ignored", "Counts built-in tools, of which there are none."
    ),
    Field(
        "truncation",
        "string",
        "refused",
        "'truncation' other than disabled is not supported: nothing is cut in silence.",
        neutral=("disabled",),
    ),
    Field("previous_response_id", "string", "refused", f"'previous_response_id': {_RESEND}"),
    Field("conversation", "any", "refused", f"'conversation': {_RESEND}"),
    Field(
        "background",
        "boolean",
        "refused",
        "'background' is not supported: nothing is stored here. Use 'stream'.",
        neutral=(False,),
    ),
    Field("background_options", "object", "refused", "'background_options' is not supported."),
    Field(
        "prompt",
        "object",
        "refused",
        "'prompt' is not supported: no templates are stored here. Use 'instructions' and 'input'.",
    ),
    Field(
        "context_management",
        "array",
        "refused",
        "'context_management' is not supported: shorten 'input' yourself.",
        neutral=([],),
    ),
    Field("moderation", "object", "refused", "'moderation' is not supported."),
    Field("image", "object", "refused", "'image' is not supported: the models here take text."),
    Field("access_programs", "object", "refused", "'access_programs' is not supported."),
    Field(
        "prompt_cache_options",
        "object",
        "refused",
        "'prompt_cache_options' is not supported: the cache is the model's context.",
    ),
)


def prepare(body: dict[str, Any], route: Route) -> Prepared:
    """The backend's request for a response. Raises ApiError 400, in a chat's words where the
    chat's own checks find something."""
    accepted = accept(body, FIELDS)
    require(accepted, ("input",))
    stream = accepted.get("stream", False)
    _check_stream_options(body.get("stream_options"), stream=stream)
    instructions = accepted.get("instructions")
    tools = functions.read(accepted.get("tools", []))
    text = text_format.read(accepted.get("text", {}))
    chat = {
        **{name: body.get(name) for name in _SAME},
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
