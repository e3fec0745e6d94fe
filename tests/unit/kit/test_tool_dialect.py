"""Which models know tools, by what stands in their chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamakit.models.gguf_header import Header, read_header
from llamakit.models.tool_dialect import NO_TOOLS, tool_dialect
from llamakit_proxy.routes import NO_TOOLS as PROXY_NO_TOOLS
from llamakit_proxy.tool_calls import DIALECTS
from support.models import tools_model

JSON_CALL = '{"name": <function-name>, "arguments": <args-json-object>}'
TEMPLATES = {
    "{% if tools %}<tool_call>" + JSON_CALL + "</tool_call>{% endif %}": "hermes",
    "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]": "mistral",
    "{% if tools %}Environment: ipython{% endif %}": "llama3",
    "{% if tools %}<|python_tag|>{% endif %}": "llama3",
    "{% if tools %}<tool_call><function=name>{% endif %}": None,
    "{% if tools %}<tool_call>name<arg_key>{% endif %}": None,
    "{% if tools %}{{ tools | tojson }}{% endif %}": None,
    "{{ messages }}<tool_call>": None,
    "": None,
}


def header(**templates: str) -> Header:
    return Header({f"tokenizer.{name}": text for name, text in templates.items()}, 0, 0)


@pytest.mark.parametrize(("template", "dialect"), TEMPLATES.items())
def test_templates(template: str, dialect: str | None) -> None:
    assert tool_dialect(header(chat_template=template), {}) == dialect
    assert dialect is None or dialect in DIALECTS


@pytest.mark.parametrize(
    ("settings", "dialect"),
    [
        ({}, "hermes"),
        ({"chat_format": "chatml"}, None),
        ({"chat_format": "chat_template.default"}, "hermes"),
        ({"chat_format": "chat_template.tool_use"}, "mistral"),
        ({"chat_format": "chat_template.other"}, None),
        ({"hf_tokenizer_config_path": "x.json"}, None),
    ],
)
def test_the_template_that_the_server_uses_counts(
    settings: dict[str, Any], dialect: str | None
) -> None:
    templates = {
        "chat_template": "tools <tool_call>",
        "chat_template.tool_use": "tools [TOOL_CALLS]",
    }
    assert tool_dialect(header(**templates), settings) == dialect


def test_a_file(tmp_path: Path) -> None:
    found = read_header(tools_model(tmp_path))
    assert tool_dialect(found, {}) == "hermes"
    assert tool_dialect(None, {}) is None


def test_the_proxy_knows_the_same_word_for_none() -> None:
    assert NO_TOOLS == PROXY_NO_TOOLS
