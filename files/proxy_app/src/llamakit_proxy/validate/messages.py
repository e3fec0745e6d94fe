"""The messages of a chat: their shape, and what the backend needs them to be."""

import json
import re
from typing import Any

from llamakit_proxy.errors import ApiError, invalid

from .fields import describe
from .text import neutralise, neutralise_all

MAX_MESSAGES = 4096
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {
        "role",
        "content",
        "name",
        "refusal",
        "audio",
        "annotations",
        "parsed",
        "tool_calls",
        "function_call",
    },
    "tool": {"role", "content", "tool_call_id", "name"},
    "function": {"role", "content", "name"},
}
"""What the OpenAI SDKs send per role, including parts of an answer that is sent back."""


def repair(messages: list[Any]) -> list[dict[str, Any]]:
    """The messages for the backend. Raises ApiError 400."""
    if not 0 < len(messages) <= MAX_MESSAGES:
        raise invalid(
            f"'messages' has {len(messages)} entries; expected 1 to {MAX_MESSAGES}.",
            param="messages",
        )
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid(f"'{where}' must be an object, not {describe(message)}.", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in _KEYS:
        raise invalid(f"'{where}.role' must be one of {', '.join(_KEYS)}.", param=f"{where}.role")
    for key, value in message.items():
        if key not in _KEYS[role] and value is not None:
            problem = f"has a field that messages of the role {role} do not have"
            raise invalid(f"'{where}' {problem}.", param=where)
    repaired: dict[str, Any] = {
        "role": "system" if role == "developer" else role,
        "content": neutralise(_content(message, role, where)),
    }
    if role != "tool" and (message.get("name") is not None or role == "function"):
        repaired["name"] = _name(message.get("name"), f"{where}.name")
    if role == "tool":
        # Its function's name, which OpenAI's first examples send, is known by the call.
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str) or not 0 < len(call_id) <= 256:
            raise invalid(
                f"'{where}.tool_call_id' must be the id of a tool call.",
                param=f"{where}.tool_call_id",
            )
        repaired["tool_call_id"] = neutralise(call_id)
    if message.get("audio") is not None:
        raise invalid(f"'{where}.audio' is not supported.", param=f"{where}.audio")
    if message.get("tool_calls"):
        repaired["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    if message.get("function_call") is not None:
        call = _call(message["function_call"], f"{where}.function_call")
        repaired["function_call"] = call
    return repaired


def _content(message: dict[str, Any], role: str, where: str) -> str:
    content = message.get("content")
    where = f"{where}.content"
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))
    if content is None and role in ("assistant", "function"):
        # The SDKs send an answer back as it came: a tool call has no content. The chat templates
        # want a text all the same.
        refusal = message.get("refusal")
        return refusal if isinstance(refusal, str) else ""
    raise invalid(
        f"'{where}' must be a string or an array of text parts, not {describe(content)}.",
        param=where,
    )


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict):
        kind = part.get("type")
        text = part.get("refusal") if kind == "refusal" else part.get("text")
        if kind in ("text", "refusal") and isinstance(text, str):
            return text
        if kind in ("image_url", "input_audio", "file"):
            raise invalid(
                f"'{where}' is of type {kind}; the models here take text alone.",
                param=where,
                code="unsupported_content",
            )
    raise invalid(f"'{where}' must be a text part.", param=where)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or len(calls) > 128:
        raise invalid(f"'{where}' must be an array of at most 128 tool calls.", param=where)
    repaired = []
    for index, call in enumerate(calls):
        here = f"{where}[{index}]"
        if not isinstance(call, dict) or call.get("type") != "function":
            raise invalid(f"'{here}' must be a tool call of type function.", param=here)
        call_id = call.get("id")
        if not isinstance(call_id, str) or not 0 < len(call_id) <= 256:
            raise invalid(f"'{here}.id' must be 1 to 256 characters.", param=f"{here}.id")
        repaired.append(
            {
                "id": neutralise(call_id),
                "type": "function",
                "function": _call(call.get("function"), f"{here}.function"),
            }
        )
    return repaired


def _call(call: Any, where: str) -> dict[str, str]:
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), str):
        raise invalid(f"'{where}' must have a name and arguments as a string.", param=where)
    return {
        "name": _name(call.get("name"), f"{where}.name"),
        "arguments": _arguments(call["arguments"], f"{where}.arguments"),
    }


def _arguments(text: str, where: str) -> str:
    """A call's arguments. The backend decodes JSON before its template shows it, so that what is
    escaped there counts as well."""
    try:
        told = json.loads(text)
        shown = neutralise_all(told)
    except ValueError:
        return neutralise(text)
    except RecursionError:
        raise invalid(f"'{where}' is nested too deeply.", param=where) from None
    if shown == told:
        return neutralise(text)
    # Only ASCII has no half of a character in it, which could not be sent.
    return json.dumps(shown)


def _name(value: Any, where: str) -> str:
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise bad_name(where)


def bad_name(where: str) -> ApiError:
    """400 for a name that is not a plain one."""
    return invalid(f"'{where}' must be 1 to 64 letters, digits, '_', '-' or '.'.", param=where)
