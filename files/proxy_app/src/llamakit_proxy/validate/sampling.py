"""How tokens are chosen and how many: the fields chat and plain completions share."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from llamakit_proxy.errors import invalid
from llamakit_proxy.routes import Route

from .fields import Field, describe

MAX_CHOICES = 8
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
_TOKEN_ID = re.compile(r"[0-9]{1,10}")
MAX_BIASES = 1024
SEEDS = 2**32 - 1
"""llama.cpp takes 32 bits, and the highest of them as "choose one"."""

FIELDS = (
    Field("model", "string", "translated", "A model's id or one of its aliases; case counts."),
    Field("stream", "boolean", "works", "Server-sent events instead of one document."),
    Field(
        "stream_options",
        "object",
        "translated",
        "`include_usage` adds a last chunk with the usage; only with `stream`.",
    ),
    Field("temperature", "number", "works", "Default 0.8; 0 takes the likeliest token.", 0, 2),
    Field("top_p", "number", "works", "Default 0.95.", 0, 1),
    Field("top_k", "integer", "works", "Default 40; 0 is off.", 0, 1_000_000),
    Field("min_p", "number", "works", "Default 0.05.", 0, 1),
    Field("typical_p", "number", "works", "Default 1, which is off.", 0, 1),
    Field("repeat_penalty", "number", "works", "Default 1, which is off.", 0.01, 10),
    Field("presence_penalty", "number", "works", "Default 0.", -2, 2),
    Field("frequency_penalty", "number", "works", "Default 0.", -2, 2),
    Field("mirostat_mode", "integer", "works", "Default 0, which is off.", 0, 2),
    Field("mirostat_tau", "number", "works", "Default 5.", 0, 10),
    Field("mirostat_eta", "number", "works", "Default 0.1.", 0.001, 1),
    Field(
        "seed",
        "integer",
        "translated",
        "Taken modulo 2^32 - 1. Without one every answer has a new random seed.",
        -(2**63),
        2**64,
    ),
    Field("stop", "any", "works", f"A text or up to {MAX_STOPS} texts, none of them empty."),
    Field(
        "max_tokens",
        "integer",
        "works",
        "Most tokens of the answer, up to the model's own limit. "
        "Default: that limit for chat, 16 for completions.",
        1,
    ),
    Field(
        "logit_bias",
        "object",
        "works",
        f"Token ids to -100..100, up to {MAX_BIASES} of them.",
    ),
    Field("n", "integer", "translated", "Answers, made one after the other.", 1, MAX_CHOICES),
    Field("user", "string", "ignored", "Who asks is known from the key."),
    Field(
        "grammar",
        "string",
        "refused",
        "'grammar' is not supported: a bad one ends the model server. "
        "Use response_format with a JSON schema.",
    ),
    Field(
        "min_tokens",
        "integer",
        "refused",
        "'min_tokens' is not supported by this server.",
        neutral=(0,),
    ),
    Field(
        "logit_bias_type",
        "string",
        "refused",
        "'logit_bias_type' is not supported; give token ids in 'logit_bias'.",
        neutral=("input_ids",),
    ),
)

_DEFAULTS = {
    # What llama.cpp samples with when nothing is said, written out so that a new version can't
    # change it. Small quantised models ramble at OpenAI's temperature of 1.
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 40,
    "min_p": 0.05,
    # llama_cpp.server would take 1.1, which damages code, JSON and long answers.
    "repeat_penalty": 1.0,
}
_PASSED = (
    "presence_penalty",
    "frequency_penalty",
    "typical_p",
    "mirostat_mode",
    "mirostat_tau",
    "mirostat_eta",
)


def settle(accepted: Mapping[str, Any], route: Route, default_tokens: int) -> dict[str, Any]:
    """The part of a backend's request that says how to sample.

    ``stream`` is always true: only a stream stops when its reader goes.
    """
    upstream: dict[str, Any] = {"model": route.id, "stream": True}
    for name, default in _DEFAULTS.items():
        upstream[name] = accepted.get(name, default)
    for name in _PASSED:
        if name in accepted:
            upstream[name] = accepted[name]
    upstream["max_tokens"] = _max_tokens(accepted, route, default_tokens)
    seed = accepted.get("seed")
    upstream["seed"] = secrets.randbelow(SEEDS) if seed is None else seed % SEEDS
    if "stop" in accepted:
        upstream["stop"] = _stops(accepted["stop"])
    if accepted.get("logit_bias"):
        upstream["logit_bias"] = _biases(accepted["logit_bias"])
    return upstream


def repeat(document: dict[str, Any], count: int) -> tuple[dict[str, Any], ...]:
    """The backend's requests for the answers after the first: the seeds tell them apart."""
    seed = document["seed"]
    return tuple({**document, "seed": (seed + number) % SEEDS} for number in range(1, count))


def wants_usage(accepted: Mapping[str, Any]) -> bool:
    """Whether a stream shall end with its usage. ApiError 400 for stream_options that are wrong."""
    options = accepted.get("stream_options")
    if options is None:
        return False
    if not accepted.get("stream"):
        raise invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    for name, value in options.items():
        if name not in ("include_usage", "include_obfuscation") or not isinstance(value, bool):
            raise invalid(
                "'stream_options' may hold 'include_usage' (a boolean).", param="stream_options"
            )
    return bool(options.get("include_usage"))


def _max_tokens(accepted: Mapping[str, Any], route: Route, default: int) -> int:
    old, new = accepted.get("max_tokens"), accepted.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise invalid(
            "'max_tokens' and 'max_completion_tokens' say different things; give one of them.",
            param="max_tokens",
        )
    wanted = new if new is not None else old
    if wanted is None:
        return min(default, route.max_tokens)
    if wanted > route.max_tokens:
        raise invalid(
            f"max_tokens is too large: {wanted}. "
            f"This model gives at most {route.max_tokens} completion tokens here.",
            param="max_tokens" if new is None else "max_completion_tokens",
        )
    return int(wanted)


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise invalid(
            f"'stop' must be a string or an array of at most {MAX_STOPS} strings.", param="stop"
        )
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARACTERS:
            raise invalid(
                f"'stop' holds {describe(stop)} that is not 1 to {MAX_STOP_CHARACTERS} "
                "characters of text.",
                param="stop",
            )
    return stops


def _biases(value: dict[str, Any]) -> dict[str, float]:
    if len(value) > MAX_BIASES:
        raise invalid(f"'logit_bias' has more than {MAX_BIASES} entries.", param="logit_bias")
    for token, bias in value.items():
        if not _TOKEN_ID.fullmatch(token) or int(token) >= 2**31:
            raise invalid(
                "'logit_bias' must map token ids, written as digits, to numbers.",
                param="logit_bias",
            )
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise invalid("'logit_bias' values must be -100 to 100.", param="logit_bias")
    return value
