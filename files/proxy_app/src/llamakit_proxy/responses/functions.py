"""The tools of a response: a chat's, but flat."""

from typing import Any

from llamakit_proxy.errors import invalid
from llamakit_proxy.validate.fields import describe

_CHOICES = ("none", "auto", "required")


def read(tools: list[Any]) -> list[dict[str, Any]]:
    """The functions as the answer repeats them. Raises ApiError 400 for other tools; what is in
    a function the chat checks."""
    return [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def of_chat(functions: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The same for a chat; None when there are none."""
    names = ("name", "description", "parameters")
    return [
        {"type": "function", "function": {name: function[name] for name in names}}
        for function in functions
    ] or None


def choice_of_chat(choice: Any) -> Any:
    """A chat's ``tool_choice``. Raises ApiError 400."""
    if choice is None or choice in _CHOICES:
        return choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        return _named(choice)
    if kind == "allowed_tools":
        return {"type": kind, "allowed_tools": _allowed(choice)}
    raise invalid(
        f"'tool_choice' must be {', '.join(_CHOICES)}, or an object of type function or "
        "allowed_tools.",
        param="tool_choice",
        code="unsupported_tool_choice",
    )


def _named(choice: Any) -> dict[str, Any]:
    if (
        isinstance(choice, dict)
        and choice.get("type") == "function"
        and isinstance(choice.get("name"), str)
    ):
        return {"type": "function", "function": {"name": choice["name"]}}
    raise invalid("'tool_choice' does not say which function.", param="tool_choice")


def _allowed(choice: dict[str, Any]) -> dict[str, Any]:
    mode, tools = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required") or not isinstance(tools, list):
        raise invalid(
            "'tool_choice' of type allowed_tools must have 'tools' and a 'mode' of auto or "
            "required.",
            param="tool_choice",
        )
    return {"mode": mode, "tools": [_named(tool) for tool in tools]}


def _function(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise invalid(f"'{where}' must be an object, not {describe(tool)}.", param=where)
    if tool.get("type") != "function":
        raise invalid(
            f"'{where}' is not of type function. There are no built-in tools here: describe a "
            "function, and run it in your application.",
            param=where,
            code="unsupported_parameter",
        )
    if "function" in tool:
        raise invalid(
            f"'{where}.function': in a response, name and parameters stand beside 'type'.",
            param=where,
        )
    strict = tool.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise invalid(f"'{where}.strict' must be a boolean.", param=where)
    return {
        "type": "function",
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("parameters"),
        "strict": True if strict is None else strict,
    }
