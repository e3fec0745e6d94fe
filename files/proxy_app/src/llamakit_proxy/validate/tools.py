"""Tools and functions: which one, if any, the model is made to call.

llama_cpp.server can make a model call one given function, whose arguments then follow the
function's schema. It can't let the model choose: what a model writes is never read as a call.
So ``auto`` with tools is refused instead of giving answers in which no call ever appears.
"""

from dataclasses import dataclass
from typing import Any

from llamakit_proxy import schema_guard
from llamakit_proxy.errors import ApiError, invalid

from .fields import describe
from .messages import NAME, bad_name

MAX_TOOLS = 128


@dataclass(frozen=True, slots=True)
class Forced:
    """The one function the model has to call."""

    tools: list[dict[str, Any]]
    name: str
    legacy: bool

    def upstream(self) -> dict[str, Any]:
        """The fields for the backend."""
        choice = {"type": "function", "function": {"name": self.name}}
        return {"tools": self.tools, "tool_choice": choice}


def choose(accepted: dict[str, Any]) -> Forced | None:
    """The forced function, or None when the model shall answer in text. Raises ApiError 400."""
    legacy = "functions" in accepted or "function_call" in accepted
    if legacy and ("tools" in accepted or "tool_choice" in accepted):
        raise invalid("Give 'tools' or the older 'functions', not both.", param="functions")
    if legacy:
        functions, param = accepted.get("functions", []), "functions"
        choice = accepted.get("function_call", "auto")
        choice_param = "function_call"
    else:
        functions, param = _functions(accepted.get("tools", [])), "tools"
        choice = accepted.get("tool_choice", "auto")
        choice_param = "tool_choice"
    if len(functions) > MAX_TOOLS:
        raise invalid(f"'{param}' has more than {MAX_TOOLS} entries.", param=param)
    tools = [_tool(function, f"{param}[{i}]") for i, function in enumerate(functions)]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) != len(names):
        raise invalid(f"Two entries of '{param}' have the same name.", param=param)
    name = _chosen(choice, names, legacy=legacy, param=choice_param)
    return None if name is None else Forced(tools, name, legacy)


def _functions(tools: list[Any]) -> list[Any]:
    functions = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise invalid(
                f"'tools[{index}]' must be an object of type function.", param=f"tools[{index}]"
            )
        functions.append(tool.get("function"))
    return functions


def _tool(function: Any, where: str) -> dict[str, Any]:
    if not isinstance(function, dict):
        raise invalid(f"'{where}' must be an object, not {describe(function)}.", param=where)
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise bad_name(f"{where}.name")
    tool: dict[str, Any] = {"name": name}
    description = function.get("description")
    if description is not None:
        if not isinstance(description, str):
            raise invalid(f"'{where}.description' must be a string.", param=where)
        tool["description"] = description
    parameters = function.get("parameters")
    tool["parameters"] = schema_guard.check(
        {"type": "object", "properties": {}} if parameters is None else parameters,
        f"{where}.parameters",
    )
    return {"type": "function", "function": tool}


def _chosen(choice: Any, names: list[str], *, legacy: bool, param: str) -> str | None:
    if choice == "none" or (choice == "auto" and not names):
        return None
    if choice == "required" and not legacy and len(names) == 1:
        return names[0]
    if choice == "auto" or (choice == "required" and not legacy and names):
        raise _cannot_choose(legacy=legacy, param=param)
    name: Any = None
    if isinstance(choice, dict):
        if legacy:
            name = choice.get("name")
        elif choice.get("type") == "function" and isinstance(choice.get("function"), dict):
            name = choice["function"].get("name")
    if not isinstance(name, str):
        raise invalid(f"'{param}' does not say which function.", param=param)
    if name not in names:
        raise invalid(f"'{param}' names a function that is not in the request.", param=param)
    return name


def _cannot_choose(*, legacy: bool, param: str) -> ApiError:
    example = '{"name": "..."}' if legacy else '{"type": "function", "function": {"name": "..."}}'
    also = "" if legacy else ', "required" with exactly one tool,'
    return invalid(
        "The model server here can't choose between tools by itself. "
        f"Set '{param}' to {example} to have one called{also} or to \"none\" for text.",
        param=param,
        code="unsupported_tool_choice",
    )
