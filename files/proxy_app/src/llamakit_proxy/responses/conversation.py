"""The input of a response as the messages of a chat."""

from typing import Any

from llamakit_proxy.errors import ApiError, invalid
from llamakit_proxy.validate.fields import describe
from llamakit_proxy.validate.messages import MAX_MESSAGES, NAME, bad_name

MAX_CALLS = 128
_ROLES = ("user", "assistant", "system", "developer")
_KEYS = {
    "message": {"type", "role", "content", "id", "status", "phase"},
    "function_call": {
        "type",
        "call_id",
        "name",
        "arguments",
        "id",
        "status",
        "caller",
        "namespace",
        "async",
    },
    "function_call_output": {
        "type",
        "call_id",
        "output",
        "id",
        "status",
        "name",
        "caller",
        "namespace",
    },
}
"""What a client may send of an item, including an answer's own items that are sent back."""
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and which field has it."""
_MEDIA = ("input_image", "input_file", "input_audio")


class Conversation:
    """Collects items, one by one, as messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._calls: set[str] = set()

    def add(self, item: Any, where: str) -> None:
        """Take one item in. Raises ApiError 400."""
        if not isinstance(item, dict):
            raise invalid(f"'{where}' must be an object, not {describe(item)}.", param=where)
        kind = "message" if item.get("type") is None else item["type"]
        if kind == "reasoning":
            # What another model thought is nothing that a chat template has a place for.
            return
        if not isinstance(kind, str) or kind not in _KEYS:
            raise _not_taken(kind, where)
        for key, value in item.items():
            if key not in _KEYS[kind] and value is not None:
                problem = f"has a field that items of the type {kind} do not have"
                raise invalid(f"'{where}' {problem}.", param=where)
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            self._call(item, where)
        else:
            self._output(item, where)

    def _message(self, item: dict[str, Any], where: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise invalid(
                f"'{where}.role' must be one of {', '.join(_ROLES)}.", param=f"{where}.role"
            )
        content = _text(item.get("content"), f"{where}.content")
        self.messages.append({"role": role, "content": content})

    def _call(self, item: dict[str, Any], where: str) -> None:
        """Calls that follow each other, or a text, are one message of the assistant."""
        name, arguments = item.get("name"), item.get("arguments")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise bad_name(f"{where}.name")
        if not isinstance(arguments, str):
            raise invalid(
                f"'{where}.arguments' must be a string with JSON.", param=f"{where}.arguments"
            )
        call_id = _call_id(item, where)
        self._calls.add(call_id)
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": None})
        calls = self.messages[-1].setdefault("tool_calls", [])
        if len(calls) == MAX_CALLS:
            raise invalid(f"'{where}' is one of more than {MAX_CALLS} calls at once.", param=where)
        calls.append(
            {
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        )

    def _output(self, item: dict[str, Any], where: str) -> None:
        call_id = _call_id(item, where)
        if call_id not in self._calls:
            raise invalid(
                f"'{where}' answers a call that is not in the input. Nothing is stored here: "
                "send the function_call item before its function_call_output.",
                param=f"{where}.call_id",
            )
        content = _text(item.get("output"), f"{where}.output")
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})


def messages(value: Any, instructions: str | None) -> list[dict[str, Any]]:
    """The messages of a chat for ``input`` and ``instructions``. Raises ApiError 400."""
    items = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise invalid(
            f"'input' must be a string or an array, not {describe(value)}.",
            param="input",
            code="invalid_type",
        )
    conversation = Conversation()
    for index, item in enumerate(items):
        conversation.add(item, f"input[{index}]")
    found = conversation.messages
    if instructions:
        found.insert(0, {"role": "system", "content": instructions})
    if not 0 < len(found) <= MAX_MESSAGES:
        raise invalid(
            f"'input' makes {len(found)} messages; expected 1 to {MAX_MESSAGES}.", param="input"
        )
    return found


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))
    raise invalid(
        f"'{where}' must be a string or an array of text parts, not {describe(content)}.",
        param=where,
    )


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in _MEDIA:
        raise invalid(
            f"'{where}' is of type {kind}; the models here take text alone.",
            param=where,
            code="unsupported_content",
        )
    text = part.get(_TEXTS[kind]) if isinstance(kind, str) and kind in _TEXTS else None
    if isinstance(text, str):
        return text
    raise invalid(f"'{where}' must be a part of type input_text or output_text.", param=where)


def _call_id(item: dict[str, Any], where: str) -> str:
    call_id = item.get("call_id")
    if isinstance(call_id, str) and 0 < len(call_id) <= 256:
        return call_id
    raise invalid(f"'{where}.call_id' must be 1 to 256 characters.", param=f"{where}.call_id")


def _not_taken(kind: Any, where: str) -> ApiError:
    if kind == "item_reference":
        return invalid(
            f"'{where}' refers to an item that was to be stored. Nothing is stored here: send the "
            "item itself (clients do when 'store' is false).",
            param=where,
            code="unsupported_content",
        )
    return invalid(
        f"'{where}.type' must be one of {', '.join(_KEYS)}, reasoning: there are no built-in "
        "tools here.",
        param=f"{where}.type",
        code="unsupported_content",
    )
