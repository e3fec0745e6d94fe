"""POST /v1/chat/completions: its fields, and the backend's request made of them."""

from typing import Any

from llamakit_proxy import schema_guard
from llamakit_proxy.chunks import Style
from llamakit_proxy.errors import invalid
from llamakit_proxy.routes import Route

from . import messages, sampling, tools
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
    Field("tools", "array", "translated", "Functions, one of which the model can be made to call."),
    Field(
        "tool_choice",
        "any",
        "translated",
        "A function, `required` with exactly one tool, or `none`. `auto` is refused when there "
        "are tools: the backend can't choose.",
    ),
    Field("functions", "array", "translated", "The older form of `tools`."),
    Field("function_call", "any", "translated", "The older form of `tool_choice`."),
    Field("parallel_tool_calls", "boolean", "ignored", "There is one call per answer."),
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
)


def prepare(body: dict[str, Any], route: Route) -> Prepared:
    """The backend's request for a chat. Raises ApiError 400."""
    accepted = accept(body, FIELDS)
    require(accepted, ("messages",))
    include_usage = sampling.wants_usage(accepted)
    document = sampling.settle(accepted, route, route.max_tokens)
    document["messages"] = messages.repair(accepted["messages"])
    top_logprobs = _logprobs(accepted, route, document)
    forced = tools.choose(accepted)
    if forced is not None:
        document.update(forced.upstream())
    _response_format(accepted.get("response_format"), document, forced=forced is not None)
    return Prepared(
        path=PATH,
        document=document,
        style=Style(
            chat=True,
            include_usage=include_usage,
            tool=None if forced is None else forced.name,
            legacy_function=forced is not None and forced.legacy,
            top_logprobs=top_logprobs,
            n_ctx=route.n_ctx,
            max_tokens=document["max_tokens"],
        ),
        stream=accepted.get("stream", False),
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


def _response_format(
    value: dict[str, Any] | None, document: dict[str, Any], *, forced: bool
) -> None:
    """JSON mode. With a forced function the answer is that function's arguments anyway."""
    kind = None if value is None else value.get("type")
    if value is None or kind == "text":
        return
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
    if not forced:
        document["response_format"] = wanted
