"""Chat requests as they are prepared for a model, which need not run, or why they are refused."""

from typing import Any

import pytest

from llamakit_proxy import validate
from llamakit_proxy.errors import ApiError
from llamakit_proxy.routes import Backend, Route
from llamakit_proxy.validate.prepared import Prepared

ROUTE = Route(
    id="tiny",
    aliases=("tiny.gguf",),
    created=0,
    owned_by="llamakit",
    kind="chat",
    n_ctx=2048,
    max_tokens=512,
    logprobs=False,
    backends=(Backend("http://127.0.0.1:1", "127.0.0.1", 1, 1, "llama_cpp_python"),),
)


def chat(_route: Route = ROUTE, /, **fields: Any) -> Prepared:
    """A good request of one message, with these fields beside or in place of the usual ones."""
    body = {"model": "tiny.gguf", "messages": [{"role": "user", "content": "hello"}], **fields}
    return validate.chat(body, _route)


def refused(_route: Route = ROUTE, /, **fields: Any) -> ApiError:
    """The error that such a request is answered with."""
    with pytest.raises(ApiError) as caught:
        chat(_route, **fields)
    assert caught.value.status == 400
    return caught.value
