"""How a model writes calls of tools, as its chat template taught it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamakit.models.gguf_header import Header

NO_TOOLS = "none"
TEMPLATE = "tokenizer.chat_template"

# Templates that mark calls like Hermes, but write something else than JSON into them.
OTHER_BODIES = ("<function=", "<arg_key>")


def tool_dialect(header: Header | None, settings: Mapping[str, Any]) -> str | None:
    """The dialect of the model with this header and settings; None when it knows no tools.

    It is one of those that the proxy can read (``llamakit_proxy.tool_calls``).
    """
    template = _template(header, settings)
    if "tools" not in template:
        return None
    if "<tool_call>" in template:
        return None if any(mark in template for mark in OTHER_BODIES) else "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template or "Environment: ipython" in template:
        return "llama3"
    return None


def _template(header: Header | None, settings: Mapping[str, Any]) -> str:
    """The chat template that the server will use; "" when it is none of the file's."""
    chosen = settings.get("chat_format") or "chat_template.default"
    kind, _, name = chosen.partition(".")
    if header is None or kind != "chat_template" or "hf_tokenizer_config_path" in settings:
        return ""
    key = TEMPLATE if name == "default" else f"{TEMPLATE}.{name}"
    template = header.metadata.get(key)
    return template if isinstance(template, str) else ""
