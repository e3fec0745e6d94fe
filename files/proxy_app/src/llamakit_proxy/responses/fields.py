"""The fields of POST /v1/responses."""

from llamakit_proxy import validate
from llamakit_proxy.validate.fields import Field, table

SAME = (
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
LOGPROBS = "message.output_text.logprobs"
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
    *_of_chat(*SAME),
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
    *_of_chat("moderation"),
    Field("image", "object", "refused", "'image' is not supported: the models here take text."),
    Field("access_programs", "object", "refused", "'access_programs' is not supported."),
    *_of_chat("prompt_cache_options"),
)
