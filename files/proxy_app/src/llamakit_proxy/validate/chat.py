"""POST /v1/chat/completions: its fields, and the backend's request made of them."""

from typing import Any

from llamakit_proxy import schema_guard
from llamakit_proxy.chunks import Style
from llamakit_proxy.errors import invalid
from llamakit_proxy.routes import Route

from . import messages, sampling, tools, turns
from .fields import Field, accept, describe, require, table
from .prepared import Prepared

PATH = "/v1/chat/completions"
_NOTHING_STORED = "Nothing is stored; accepted so that clients that set it work."

FIELDS = table(
    Field(
        "messages",
        "array",
        "translated",
        "Roles system, developer, user, assistant, tool, function; text, or parts of type text. "
        "Control tokens inside a text are broken by an invisible WORD JOINER.",
    ),
    *sampling.FIELDS,
    Field("max_completion_tokens", "integer", "translated", "The same as `max_tokens`.", 1),
    Field(
        "logprobs",
        "boolean",
        "works",
        "Only for a model whose route says so: it costs memory and speed.",
    ),
    Field("top_logprobs", "integer", "works", "Only with `logprobs`.", 0, 20),
    Field(
        "response_format",
        "object",
        "translated",
        "`text`, `json_object`, or `json_schema` within the supported part of JSON Schema.",
    ),
    Field("tools", "array", "translated", "Functions the model may call, or is made to call."),
    Field(
        "tool_choice",
        "any",
        "translated",
        "A function, `required` with one tool, or `none`. `auto`, and `required` with several, "
        "where the model's chat template knows tools.",
    ),
    Field("functions", "array", "translated", "The older form of `tools`."),
    Field("function_call", "any", "translated", "The older form of `tool_choice`."),
    Field(
        "parallel_tool_calls",
        "boolean",
        "translated",
        "Default true; with false an answer has one call, and those after it are dropped.",
    ),
    Field("store", "boolean", "ignored", _NOTHING_STORED),
    Field("metadata", "object", "ignored", _NOTHING_STORED),
    Field("service_tier", "string", "ignored", "There is one tier."),
    Field("reasoning_effort", "string", "ignored", "The models here have no such switch."),
    Field("verbosity", "string", "ignored", "The models here have no such switch."),
    Field("safety_identifier", "string", "ignored", "Who asks is known from the key."),
    Field("prompt_cache_key", "string", "ignored", "The cache needs no key."),
    Field("prompt_cache_retention", "string", "ignored", "The cache is the model's context."),
    Field("prediction", "object", "ignored", "Only ever a matter of speed."),
    Field(
        "modalities",
        "array",
        "refused",
        "'modalities' other than [\"text\"] are not supported.",
        neutral=(["text"],),
    ),
    Field("audio", "object", "refused", "'audio' is not supported."),
    Field("web_search_options", "object", "refused", "'web_search_options' is not supported."),
    Field("moderation", "object", "refused", "'moderation' is not supported."),
    Field(
        "prompt_cache_options",
        "object",
        "refused",
        "'prompt_cache_options' is not supported: the cache is the model's context.",
    ),
)


def prepare(body: dict[str, Any], route: Route) -> Prepared:
    """The backend's request for a chat. Raises ApiError 400."""
    accepted = accept(body, FIELDS)
    require(accepted, ("messages",))
    include_usage = sampling.wants_usage(accepted)
    document = sampling.settle(accepted, route, route.max_tokens)
    document["messages"] = turns.fit(messages.repair(accepted["messages"]), route)
    top_logprobs = _logprobs(accepted, route, document)
    chosen = tools.choose(accepted, route)
    if chosen.shown:
        document["tools"] = chosen.shown
    wanted = _response_format(accepted.get("response_format"))
    if chosen.schema is not None:
        # The answer is the call, so that there is none for a response_format to hold for.
        wanted = {"type": "json_object", "schema": chosen.schema}
    elif wanted is not None and chosen.calling is not None:
        raise invalid(
            "'response_format' can't be enforced while the model may also call a tool. "
            "Set 'tool_choice' to \"none\" or to a function, or leave 'response_format' out.",
            param="response_format",
            code="unsupported_parameter",
        )
    if wanted is not None:
        document["response_format"] = wanted
    return Prepared(
        path=PATH,
        document=document,
        style=Style(
            chat=True,
            include_usage=include_usage,
            tool=chosen.forced,
            calling=chosen.calling,
            legacy_function=chosen.legacy,
            top_logprobs=top_logprobs,
            n_ctx=route.n_ctx,
        ),
        stream=accepted.get("stream", False),
        others=sampling.repeat(document, accepted.get("n", 1)),
    )


def _logprobs(accepted: dict[str, Any], route: Route, document: dict[str, Any]) -> int | None:
    count: int | None = accepted.get("top_logprobs")
    if not accepted.get("logprobs"):
        if count is not None:
            raise invalid("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
        return None
    if not route.logprobs:
        raise no_logprobs()
    document["logprobs"] = True
    document["top_logprobs"] = count or 0
    return count or 0


def no_logprobs() -> Exception:
    """400 for a model that was not started for log probabilities."""
    return invalid(
        "This model does not report log probabilities: that is a setting of the server "
        "(logits_all in models.yaml).",
        param="logprobs",
        code="unsupported_parameter",
    )


def _response_format(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the backend is told of JSON mode; None for ordinary text."""
    kind = None if value is None else value.get("type")
    if value is None or kind == "text":
        return None
    if kind == "json_object":
        wanted: dict[str, Any] = {"type": "json_object"}
        if value.get("schema") is not None:
            wanted["schema"] = schema_guard.check(value["schema"], "response_format.schema")
    elif kind == "json_schema":
        described = value.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if schema is None:
            raise invalid(
                "'response_format.json_schema' must be an object with a 'schema'.",
                param="response_format",
            )
        where = "response_format.json_schema.schema"
        wanted = {"type": "json_object", "schema": schema_guard.check(schema, where)}
    else:
        raise invalid(
            "'response_format.type' must be text, json_object or json_schema, "
            f"not {describe(kind) if not isinstance(kind, str) else 'another one'}.",
            param="response_format",
        )
    return wanted
