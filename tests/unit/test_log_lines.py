"""The log's lines: of an exception its type and its place, and nothing of its text."""

import json
import logging
from typing import Any

from llamakit_proxy.logging import JsonFormatter

CANARY = "canary-prompt-text"


def failing() -> None:
    raise ValueError(CANARY, {"password": CANARY})


def line_of(error: BaseException | None, message: str = "it failed") -> tuple[str, dict[str, Any]]:
    trouble = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("a.part", logging.ERROR, __file__, 1, message, (), trouble)
    line = JsonFormatter().format(record)
    parsed: dict[str, Any] = json.loads(line)
    return line, parsed


def test_the_text_of_an_exception_is_not_logged() -> None:
    try:
        failing()
    except ValueError as error:
        line, parsed = line_of(error)
    assert CANARY not in line
    assert parsed["message"] == "it failed"
    assert parsed["exception"] == "ValueError"
    # The place where it was raised, not where it was caught.
    assert parsed["at"] == f"failing:{failing.__code__.co_firstlineno + 1}"


def test_nor_is_that_of_its_cause() -> None:
    try:
        try:
            failing()
        except ValueError as error:
            raise RuntimeError("something of " + CANARY) from error
    except RuntimeError as error:
        line, parsed = line_of(error)
    assert CANARY not in line
    assert parsed["exception"] == "RuntimeError"


def test_a_record_is_one_line_whatever_it_says() -> None:
    line, parsed = line_of(None, "one\ntwo\r\x1b[31m")
    assert line.isprintable()
    assert parsed["message"] == "one\ntwo\r\x1b[31m"
    assert (parsed["level"], parsed["logger"]) == ("error", "a.part")
    assert "exception" not in parsed
