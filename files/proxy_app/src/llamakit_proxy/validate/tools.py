"""Tools and functions: which ones the model may call, and which one it is made to.

llama_cpp.server never reads a call out of what a model writes, but it takes a JSON schema that the
answer must follow. A call that is wanted is therefore the text of an answer under such a schema. A
model that shall choose by itself needs a chat template that tells it of the tools; the proxy then
reads its calls. Where there is no such template, ``auto`` is refused instead of giving answers in
which no call ever appears.
"""

from dataclasses import dataclass
from typing import Any

from llamakit_proxy import schema_guard
from llamakit_proxy.errors import ApiError, invalid
from llamakit_proxy.routes import Route
from llamakit_proxy.tool_calls import DIALECTS, Calling, Dialect

from .fields import describe
from .messages import NAME, bad_name
from .text import neutralise_all

MAX_TOOLS = 128


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request says of tools."""

    shown: list[dict[str, Any]]
    """For the chat template; empty when the model shall answer in text."""
    legacy: bool = False
    """The client speaks of ``functions``."""
    forced: str | None = None
    """The one function whose arguments the answer is."""
    calling: Calling | None = None
    """How the answer may call."""
    schema: dict[str, Any] | None = None
    """What the answer must follow."""


def choose(accepted: dict[str, Any], route: Route) -> Tools:
    """What a chat's fields say. Raises ApiError 400."""
    legacy = "functions" in accepted or "function_call" in accepted
    if legacy and ("tools" in accepted or "tool_choice" in accepted):
        raise invalid("Give 'tools' or the older 'functions', not both.", param="functions")
    if legacy:
        functions, param = accepted.get("functions", []), "functions"
        choice = accepted.get("function_call", "auto")
        choice_param = "function_call"
    else:
        functions, param = _functions(accepted.get("tools", []), "tools"), "tools"
        choice = accepted.get("tool_choice", "auto")
        choice_param = "tool_choice"
    if len(functions) > MAX_TOOLS:
        raise invalid(f"'{param}' has more than {MAX_TOOLS} entries.", param=param)
    tools = {}
    for index, function in enumerate(functions):
        tool = _tool(function, f"{param}[{index}]")
        if tool["name"] in tools:
            raise invalid(f"Two entries of '{param}' have the same name.", param=param)
        tools[tool["name"]] = tool
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools" and not legacy:
        choice, tools = _allowed(choice.get("allowed_tools"), tools)
    if choice == "none" or (choice == "auto" and not tools):
        return Tools([])
    shown = [{"type": "function", "function": neutralise_all(tool)} for tool in tools.values()]
    if choice == "required" and not legacy and len(tools) == 1:
        name = next(iter(tools))
    elif choice == "auto" or (choice == "required" and not legacy and tools):
        dialect = DIALECTS.get(route.tools or "")
        if dialect is None:
            raise _cannot_choose(legacy=legacy, param=choice_param)
        names = frozenset(tools)
        if choice == "required":
            schema = _any_of(tools, dialect.arguments, param)
            calling = Calling(Dialect(bare=True, id_length=dialect.id_length), names)
            return Tools(shown, calling=calling, schema=schema)
        several = not legacy and accepted.get("parallel_tool_calls", True)
        return Tools(shown, legacy, calling=Calling(dialect, names, several))
    else:
        name = _chosen(choice, legacy=legacy, param=choice_param)
    if name not in tools:
        raise invalid(
            f"'{choice_param}' names a function that is not in the request.", param=choice_param
        )
    where = f"{param}[{list(tools).index(name)}].parameters"
    schema = schema_guard.check(tools[name]["parameters"], where)
    return Tools(shown, legacy, forced=name, schema=schema)


def _functions(tools: list[Any], param: str) -> list[Any]:
    functions = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            where = f"{param}[{index}]"
            raise invalid(f"'{where}' must be an object of type function.", param=where)
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
    parameters = {"properties": {}} if parameters is None else parameters
    if not isinstance(parameters, dict) or not _of_an_object(parameters):
        raise invalid(
            f"'{where}.parameters' must be a JSON schema of the type object.",
            param=f"{where}.parameters",
            code="unsupported_schema",
        )
    tool["parameters"] = {"type": "object", **parameters}
    return tool


def _of_an_object(schema: dict[str, Any]) -> bool:
    """Whether a schema describes objects. The keywords of those hold no fraction themselves, and
    llama_cpp.server answers a tool whose parameters hold one with 422."""
    return (
        schema.get("type", "object") == "object"
        and schema.keys().isdisjoint(("const", "enum"))
        and not any(isinstance(value, float) for value in schema.values())
    )


def _any_of(tools: dict[str, dict[str, Any]], arguments: str, param: str) -> dict[str, Any]:
    """The schema of a call of one of the tools; their definitions are renamed and put together."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for index, (name, tool) in enumerate(tools.items()):
        parameters = tool["parameters"]
        schema_guard.check(parameters, f"{param}[{index}].parameters")
        parameters = _with_prefix(parameters, f"{index}-")
        for place in ("$defs", "definitions"):
            # What nothing refers to was not checked, and may be anything.
            if isinstance(held := parameters.pop(place, None), dict):
                definitions |= {f"{index}-{place}-{key}": value for key, value in held.items()}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, arguments: parameters},
                "required": ["name", arguments],
                "additionalProperties": False,
            }
        )
    return schema_guard.check({"anyOf": calls, "$defs": definitions}, param)


def _with_prefix(schema: Any, prefix: str) -> Any:
    """The schema with references to definitions that have ``prefix`` in their names."""
    if isinstance(schema, list):
        return [_with_prefix(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _with_prefix(item, prefix) for key, item in schema.items()}
    if isinstance(reference := schema.get("$ref"), str):
        renamed["$ref"] = f"#/$defs/{prefix}{reference[2:].replace('/', '-')}"
    return renamed


def _allowed(value: Any, tools: dict[str, dict[str, Any]]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The mode of a choice among some of the tools, and those tools."""
    allowed = value.get("tools") if isinstance(value, dict) else None
    if (
        not isinstance(value, dict)
        or value.get("mode") not in ("auto", "required")
        or not isinstance(allowed, list)
    ):
        raise invalid(
            "'tool_choice.allowed_tools' must have 'tools' and a 'mode' of auto or required.",
            param="tool_choice",
        )
    names = set()
    for function in _functions(allowed, "tool_choice.allowed_tools.tools"):
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or name not in tools:
            raise invalid(
                "'tool_choice' names a function that is not in the request.", param="tool_choice"
            )
        names.add(name)
    return value["mode"], {name: tool for name, tool in tools.items() if name in names}


def _chosen(choice: Any, *, legacy: bool, param: str) -> str:
    name: Any = None
    if isinstance(choice, dict):
        if legacy:
            name = choice.get("name")
        elif choice.get("type") == "function" and isinstance(choice.get("function"), dict):
            name = choice["function"].get("name")
    if not isinstance(name, str):
        raise invalid(f"'{param}' does not say which function.", param=param)
    return name


def _cannot_choose(*, legacy: bool, param: str) -> ApiError:
    example = '{"name": "..."}' if legacy else '{"type": "function", "function": {"name": "..."}}'
    also = "" if legacy else ', "required" with exactly one tool,'
    return invalid(
        "This model can't choose between tools by itself: its chat template does not tell it of "
        f"them. Set '{param}' to {example} to have one called{also} or to \"none\" for text.",
        param=param,
        code="unsupported_tool_choice",
    )
