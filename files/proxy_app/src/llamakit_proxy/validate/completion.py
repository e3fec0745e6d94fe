"""POST /v1/completions: its fields, and the backend's request made of them."""

from typing import Any

from llamakit_proxy.chunks import Style
from llamakit_proxy.errors import invalid
from llamakit_proxy.routes import Route

from . import sampling
from .chat import no_logprobs
from .fields import Field, accept, describe, require, table
from .prepared import Prepared

PATH = "/v1/completions"
DEFAULT_TOKENS = 16

FIELDS = table(
    Field(
        "prompt",
        "any",
        "works",
        "One text, or an array with one text. It is taken as it is: control tokens in it count.",
    ),
    *sampling.FIELDS,
    Field("logprobs", "integer", "works", "Only for a model whose route says so.", 0, 5),
    Field("best_of", "integer", "works", "One answer per request.", 1, 1),
    Field(
        "echo", "boolean", "refused", "'echo' is not supported by this server.", neutral=(False,)
    ),
    Field(
        "suffix", "string", "refused", "'suffix' is not supported by this server.", neutral=("",)
    ),
)


def prepare(body: dict[str, Any], route: Route) -> Prepared:
    """The backend's request for a plain completion. Raises ApiError 400."""
    accepted = accept(body, FIELDS)
    require(accepted, ("prompt",))
    include_usage = sampling.wants_usage(accepted)
    document = sampling.settle(accepted, route, DEFAULT_TOKENS)
    document["prompt"] = _prompt(accepted["prompt"])
    logprobs = accepted.get("logprobs")
    if logprobs is not None:
        if not route.logprobs:
            raise no_logprobs()
        document["logprobs"] = logprobs
    return Prepared(
        path=PATH,
        document=document,
        style=Style(
            chat=False,
            include_usage=include_usage,
            n_ctx=route.n_ctx,
            max_tokens=document["max_tokens"],
        ),
        stream=accepted.get("stream", False),
    )


def _prompt(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        problem = "one prompt per request is supported"
    elif isinstance(value, list) and value:
        problem = "token ids are not supported, only text"
    else:
        problem = f"it must be a text that is not empty, not {describe(value)}"
    raise invalid(f"'prompt': {problem}.", param="prompt")
