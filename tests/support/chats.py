"""The body of a chat request to a running proxy."""

from typing import Any


def ask(model: str = "script", **more: Any) -> dict[str, Any]:
    """One short message, and what else the request is to say."""
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
