"""Turns of a conversation that called tools, as the model's chat template takes them."""

import hashlib
from typing import Any

from llamakit_proxy.routes import Route
from llamakit_proxy.tool_calls import DIALECTS

Message = dict[str, Any]


def fit(messages: list[Message], route: Route) -> list[Message]:
    """The messages with calls and their results in the form that templates with tools know.

    The older ``function_call`` becomes a tool call. Ids get the form that the template checks,
    and several calls of one message become several messages where it takes one.
    """
    dialect = DIALECTS.get(route.tools or "")
    if dialect is None:
        return messages
    messages = _with_tool_calls(messages)
    if dialect.id_length is not None:
        messages = [_with_short_ids(message, dialect.id_length) for message in messages]
    return _one_call_each(messages) if dialect.single else messages


def _with_tool_calls(messages: list[Message]) -> list[Message]:
    fitted = []
    call_id = "call_0"
    for number, message in enumerate(messages):
        if "function_call" in message:
            call_id = f"call_{number}"
            call = {"id": call_id, "type": "function", "function": message["function_call"]}
            rest = {key: value for key, value in message.items() if key != "function_call"}
            message = {**rest, "tool_calls": [*message.get("tool_calls", ()), call]}
        elif message["role"] == "function":
            message = {"role": "tool", "content": message["content"], "tool_call_id": call_id}
        fitted.append(message)
    return fitted


def _with_short_ids(message: Message, length: int) -> Message:
    if calls := message.get("tool_calls"):
        calls = [{**call, "id": _short(call["id"], length)} for call in calls]
        return {**message, "tool_calls": calls}
    if "tool_call_id" in message:
        return {**message, "tool_call_id": _short(message["tool_call_id"], length)}
    return message


def _short(call_id: str, length: int) -> str:
    """The id itself where it has the right form, else always the same other one."""
    if len(call_id) == length and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:length]


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Every call in a message of its own, and its result right after it."""
    fitted: list[Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            fitted.append(message)
            continue
        results = []
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(messages[at])
            at += 1
        content = message["content"]
        for call in calls:
            fitted.append({**message, "content": content, "tool_calls": [call]})
            fitted += [result for result in results if result["tool_call_id"] == call["id"]]
            content = ""
        ids = {call["id"] for call in calls}
        fitted += [result for result in results if result["tool_call_id"] not in ids]
    return fitted
