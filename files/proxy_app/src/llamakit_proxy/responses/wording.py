"""Errors about a chat, in the words of a response: clients know the names they sent."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from llamakit_proxy.errors import ApiError

_NAMES = {
    "response_format.json_schema.schema": "text.format.schema",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
}
_PARAMS = {"messages": "input", "logprobs": "include"}
"""In a text these are also plain words."""
_NAME = re.compile(rf"(?:^|(?<='))(?:{'|'.join(map(re.escape, _NAMES))})(?!\w)")
"""Only where a name begins: further on it can be part of the client's own schema."""
_NESTED = '{"type": "function", "function": {"name": "..."}}'
_FLAT = '{"type": "function", "name": "..."}'


@contextmanager
def own_words() -> Iterator[None]:
    """A chat's ApiErrors in the block name a response's parameters."""
    try:
        yield
    except ApiError as error:
        error.message = _renamed(error.message).replace(_NESTED, _FLAT)
        if error.param is not None:
            error.param = _PARAMS.get(error.param) or _renamed(error.param)
        raise


def _renamed(text: str) -> str:
    return _NAME.sub(lambda name: _NAMES[name.group()], text)
