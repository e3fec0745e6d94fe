"""Spans of time as people type them: 90s, 45m, 24h, 30d, 2w."""

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d{1,6})([smhdw])")
_LONGEST = timedelta(days=36_500)


def parse(text: str) -> timedelta:
    """The span; ValueError says what was expected."""
    match = _SPAN.fullmatch(text.strip().lower())
    span = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if span is None or span > _LONGEST:
        raise ValueError(
            f"{text!r} is not a span of time; expected a number and a unit, "
            "like 90s, 45m, 24h, 30d or 2w"
        )
    return span


def text(span: timedelta) -> str:
    """A span as ``parse`` reads it, in the largest unit that says it in whole numbers."""
    seconds = int(span.total_seconds())
    for unit, size in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
