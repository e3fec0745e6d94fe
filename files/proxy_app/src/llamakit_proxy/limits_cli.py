"""The limits of a user on the command line: options, and how they are shown."""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping

from .users import User

_DEFAULT = "default"
_OPTIONS = (
    ("--rate-limit", "rate_limit", "N", 9, "requests per window"),
    ("--rate-window", "rate_window_seconds", "S", 7, "window of the requests in seconds"),
    ("--token-limit", "token_limit", "N", 15, "tokens per window"),
    ("--token-window", "token_window_seconds", "S", 7, "window of the tokens in seconds"),
    ("--max-concurrent", "max_concurrent", "N", 9, "requests at the same time"),
    ("--day-budget", "day_budget", "N", 15, "tokens per UTC day"),
    ("--month-budget", "month_budget", "N", 15, "tokens per UTC month"),
)
# Who names a limit and no window wants the server's window, not one that was set long ago.
_WITH_WINDOW = {"rate_limit": "rate_window_seconds", "token_limit": "token_window_seconds"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for each limit. Not given, it is not in what ``given`` returns."""
    about = "0 or 'none' for no limit, 'default' for the server's"
    group = parser.add_argument_group("limits", about)
    for option, column, metavar, digits, text in _OPTIONS:
        value = _parser(digits, low=1 if column.endswith("_seconds") else 0)
        group.add_argument(option, dest=column, metavar=metavar, type=value, help=text)


def given(args: argparse.Namespace) -> dict[str, int | None]:
    """The columns that the options change; None for the server's default."""
    changes: dict[str, int | None] = {}
    for _, column, _, _, _ in _OPTIONS:
        value = getattr(args, column)
        if value is not None:
            changes[column] = None if value == _DEFAULT else value
    for limit, window in _WITH_WINDOW.items():
        if limit in changes:
            changes.setdefault(window, None)
    return changes


def summary(user: User) -> str:
    """All limits that are the user's own, in a line; ``default`` when there are none."""
    texts = [
        _window_text("", user.rate_limit, user.rate_window_seconds),
        _window_text(" tokens", user.token_limit, user.token_window_seconds),
        _own(user.max_concurrent, "{} at once", "any number at once"),
        _own(user.day_budget, "{} tokens a day", "no day budget"),
        _own(user.month_budget, "{} tokens a month", "no month budget"),
    ]
    return ", ".join(text for text in texts if text != _DEFAULT) or _DEFAULT


def lines(user: User, used: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Each limit by its name, with what is ``used`` of the budgets."""
    yield "Limit", _window_text("", user.rate_limit, user.rate_window_seconds)
    yield "Tokens", _window_text("", user.token_limit, user.token_window_seconds)
    yield "At once", _own(user.max_concurrent, "{}", "any number")
    for kind, budget in (("day", user.day_budget), ("month", user.month_budget)):
        text = _own(budget, "{} tokens", "none")
        yield kind.capitalize(), f"{text} ({used[kind]} used)" if kind in used else text


def _window_text(unit: str, limit: int | None, seconds: int | None) -> str:
    if limit is None and seconds is None:
        return _DEFAULT
    if limit == 0:
        return f"any{unit}" if unit else "none"
    amount = _DEFAULT if limit is None else str(limit)
    window = "window" if seconds is None else f"{seconds} s"
    return f"{amount}{unit} per {window}"


def _own(value: int | None, some: str, none: str) -> str:
    if value is None:
        return _DEFAULT
    return some.format(value) if value else none


def _parser(digits: int, low: int) -> Callable[[str], int | str]:
    """What reads a number of so many digits, from ``low``, or a word that stands for one."""

    def read(text: str) -> int | str:
        if text == _DEFAULT:
            return text
        if text == "none" and low == 0:
            return 0
        if not re.fullmatch(rf"[0-9]{{1,{digits}}}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a whole number from {low} with at most {digits} digits, "
                f"or {_DEFAULT!r}"
            )
        return int(text)

    return read
