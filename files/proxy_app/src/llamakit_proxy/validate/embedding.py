"""POST /v1/embeddings: its fields."""

from typing import Any

from llamakit_proxy.errors import invalid

from .fields import Field, accept, describe, require, table
from .prepared import PreparedEmbedding

PATH = "/v1/embeddings"
MAX_INPUTS = 2048

FIELDS = table(
    Field("model", "string", "translated", "A model's id or one of its aliases; case counts."),
    Field("input", "any", "works", f"A text or up to {MAX_INPUTS} texts, none of them empty."),
    Field("encoding_format", "string", "translated", "`float` (the default) or `base64`."),
    Field("user", "string", "ignored", "Who asks is known from the key."),
    Field(
        "dimensions",
        "integer",
        "refused",
        "'dimensions' is not supported: the model's own length is what there is.",
    ),
)


def prepare(body: dict[str, Any]) -> PreparedEmbedding:
    """The inputs to embed. Raises ApiError 400."""
    accepted = accept(body, FIELDS)
    require(accepted, ("input",))
    encoding = accepted.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise invalid("'encoding_format' must be float or base64.", param="encoding_format")
    return PreparedEmbedding(inputs=_inputs(accepted["input"]), base64=encoding == "base64")


def _inputs(value: Any) -> list[str]:
    inputs = [value] if isinstance(value, str) else value
    if not isinstance(inputs, list) or not 0 < len(inputs) <= MAX_INPUTS:
        raise invalid(
            f"'input' must be a string or an array of 1 to {MAX_INPUTS} strings.", param="input"
        )
    for index, text in enumerate(inputs):
        if not isinstance(text, str):
            raise invalid(
                f"'input[{index}]' is {describe(text)}; only text is supported, not token ids.",
                param="input",
            )
        if not text:
            raise invalid(f"'input[{index}]' is empty.", param="input")
    return inputs
