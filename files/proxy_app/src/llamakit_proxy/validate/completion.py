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
MAX_PROMPTS = 32
MAX_ANSWERS = 32

FIELDS = table(
    Field(
        "prompt",
        "any",
        "translated",
        f"A text or up to {MAX_PROMPTS} texts. They are taken as they are: control tokens count.",
    ),
    *sampling.FIELDS,
    Field("logprobs", "integer", "works", "Only for a model whose route says so.", 0, 5),
    Field("best_of", "integer", "works", "The same as `n`: all answers are given.", 1, 8),
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
    prompts = _prompts(accepted["prompt"])
    count = _count(accepted, len(prompts))
    logprobs = accepted.get("logprobs")
    if logprobs is not None:
        if not route.logprobs:
            raise no_logprobs()
        document["logprobs"] = logprobs
    requests = []
    for prompt in prompts:
        request = {**document, "prompt": prompt}
        requests += [request, *sampling.repeat(request, count)]
    return Prepared(
        path=PATH,
        document=requests[0],
        style=Style(chat=False, include_usage=include_usage, n_ctx=route.n_ctx),
        stream=accepted.get("stream", False),
        others=tuple(requests[1:]),
        prompts=len(prompts),
    )


def _prompts(value: Any) -> list[str]:
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not 0 < len(prompts) <= MAX_PROMPTS:
        problem = f"it must be a text or an array of 1 to {MAX_PROMPTS} texts"
        raise invalid(f"'prompt': {problem}, not {describe(value)}.", param="prompt")
    for prompt in prompts:
        if isinstance(prompt, int | list) and not isinstance(prompt, bool):
            raise invalid("'prompt': token ids are not supported, only text.", param="prompt")
        if not isinstance(prompt, str) or not prompt:
            problem = f"every prompt must be a text that is not empty, not {describe(prompt)}"
            raise invalid(f"'prompt': {problem}.", param="prompt")
    return prompts


def _count(accepted: dict[str, Any], prompts: int) -> int:
    """Answers for each prompt."""
    count: int = accepted.get("n", 1)
    if accepted.get("best_of", count) != count:
        raise invalid(
            f"'best_of' is {accepted['best_of']} and 'n' is {count}; expected the same, "
            "because all answers are given.",
            param="best_of",
        )
    if count * prompts > MAX_ANSWERS:
        raise invalid(
            f"{prompts} prompts with n={count} are {count * prompts} answers; "
            f"expected at most {MAX_ANSWERS}.",
            param="n" if count > 1 else "prompt",
        )
    return count
