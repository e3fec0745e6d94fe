"""``llamakit-proxy usage``: requests, tokens and durations per user, model and day."""

import argparse
from dataclasses import asdict
from datetime import UTC, date, datetime, time
from typing import Any

import psycopg

from . import timespan, usage
from .commands import as_admin, print_json, print_table

_DEFAULT_SINCE = "30d"
_NUMBERS = ("REQUESTS", "ERRORS", "PROMPT TOKENS", "COMPLETION TOKENS", "AVG MS", "P95 MS")


def add_commands(commands: Any) -> None:
    """Add ``usage`` to what ``ArgumentParser.add_subparsers`` returned."""
    text = "requests, tokens and durations per user, model and day"
    parser = commands.add_parser(
        "usage",
        help=text,
        description=f"{text.capitalize()}. P95 comes from a histogram and is at most 26 % off.",
    )
    parser.add_argument("--user", metavar="NAME", help="only this user")
    parser.add_argument("--model", metavar="ID", help="only this model")
    parser.add_argument(
        "--since",
        metavar="WHEN",
        type=_since,
        default=_DEFAULT_SINCE,
        help=f"a span like 24h or 7d, or a UTC day like 2026-11-01 ({_DEFAULT_SINCE})",
    )
    parser.add_argument(
        "--by",
        metavar="A,B",
        type=_dimensions,
        default="user",
        help=f"what to group by: {', '.join(usage.DIMENSIONS)} (user)",
    )
    parser.add_argument("--json", action="store_true", help="answer as JSON")
    parser.set_defaults(run=as_admin(_usage))


def _usage(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    report = usage.report(connection, args.by, since=args.since, user=args.user, model=args.model)
    if args.json:
        groups = [_document(group) for group in report.groups]
        print_json({"since": args.since, "groups": groups, "total": _document(report.total)})
        return 0
    rows = [[*group.labels.values(), *_numbers(group)] for group in report.groups]
    total = [*("TOTAL", "", "")[: len(args.by)], *_numbers(report.total)]
    header = [*(name.upper() for name in args.by), *_NUMBERS]
    print_table(header, [*rows, total], right=_NUMBERS)
    return 0


def _document(group: usage.Usage) -> dict[str, Any]:
    document = asdict(group)
    return {**{k: v for k, v in document.pop("labels").items() if v is not None}, **document}


def _numbers(group: usage.Usage) -> list[str]:
    counts = (group.requests, group.errors, group.prompt_tokens, group.completion_tokens)
    times = (group.average_ms, group.p95_ms)
    return [
        *(f"{count:,}" for count in counts),
        *("-" if value is None else f"{value:,.0f}" for value in times),
    ]


def _since(text: str) -> datetime:
    """The moment meant; argparse shows what was expected when it is none."""
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - timespan.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, or a day like 2026-11-01") from None


def _dimensions(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in usage.DIMENSIONS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is nothing to group by; expected {', '.join(usage.DIMENSIONS)}"
        )
    return names
