"""``llamakit-proxy user …``: people and their keys."""

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import psycopg

from . import limits_cli, timespan, users
from .commands import Handler, as_admin, print_json, print_table
from .keys import NewKey
from .program import PROGRAM
from .scopes import DEFAULT, SCOPES
from .turns import MAX_WEIGHT

_SCOPES_HELP = "what the key is for; {} when not given. {}".format(
    ", ".join(DEFAULT), "; ".join(f"{name}: {what}" for name, what in SCOPES.items())
)


def add_commands(commands: Any) -> None:
    """Add ``user`` and its verbs to what ``ArgumentParser.add_subparsers`` returned."""
    text = "create and manage users and their keys"
    user = commands.add_parser("user", help=text, description=text.capitalize() + ".")
    verbs = user.add_subparsers(metavar="VERB", required=True)

    create = _verb(verbs, "create", _create, "a new user with a first key, which is shown once")
    create.add_argument("--expires", metavar="SPAN", type=_life, help="the key's life, like 30d")
    create.add_argument("--models", metavar="A,B", type=_models, help="'all', or these alone")
    create.add_argument("--scopes", metavar="A,B", type=_scopes, help=_SCOPES_HELP)
    create.add_argument("--label", help="a note on the key")
    create.add_argument(
        "--weight", metavar="N", type=_weight, default=1,
        help="the user's share of a busy model, 1 to 100 (1)",
    )  # fmt: skip
    create.add_argument(
        "--priority", choices=get_args(users.Priority), default="interactive",
        help="batch: the key's requests let interactive ones go first",
    )  # fmt: skip
    limits_cli.add_options(create)

    _verb(verbs, "list", _list, "all users", named=False)
    _verb(verbs, "show", _show, "a user and the public parts of their keys")
    _verb(verbs, "disable", _disable, "refuse all of a user's keys until they are enabled again")
    _verb(verbs, "enable", _enable, "undo disable")

    delete = _verb(verbs, "delete", _delete, "remove a user and their keys; their usage stays")
    delete.add_argument("--yes", action="store_true", help="do not ask")

    rotate = _verb(verbs, "rotate", _rotate, "a new key; the old ones go on for the overlap")
    rotate.add_argument(
        "--overlap",
        metavar="SPAN",
        type=_span,
        default=timedelta(hours=24),
        help="how long the old keys stay good (24h); 0s ends them at once",
    )
    rotate.add_argument(
        "--expires",
        metavar="SPAN",
        type=_life_or_never,
        help="the new key's life, or 'never'; as long as the old one's when not given",
    )
    rotate.add_argument(
        "--scopes",
        metavar="A,B",
        type=_scopes,
        help="what the new key is for, as in user create; the same when not given",
    )
    rotate.add_argument("--label", help="a note on the key")

    revoke = _verb(verbs, "revoke", _revoke, "end one key, or all keys of a user, at once")
    revoke.add_argument("--key", metavar="PUBLIC_ID", help="the key to end")
    revoke.add_argument("--all", action="store_true", help="all of the user's keys")

    limit = _verb(verbs, "set-limit", _set_limit, "how much one user may use")
    limits_cli.add_options(limit)
    limit.set_defaults(some_limit=True)

    weight = _verb(verbs, "set-weight", _set_weight, "a user's share of a busy model")
    weight.add_argument("--weight", metavar="N", type=_weight, required=True, help="1 to 100")

    text = "whether a key's requests go first, or let others go first"
    priority = _verb(verbs, "set-priority", _set_priority, text, named=False)
    priority.add_argument("--key", metavar="PUBLIC_ID", required=True, help="the key")
    priority.add_argument("--priority", choices=get_args(users.Priority), required=True)

    models = _verb(verbs, "allow-models", _allow_models, "the models a user may use")
    models.add_argument("--models", metavar="A,B", type=_models, required=True, help="or 'all'")


def _verb(
    verbs: Any, name: str, handler: Handler, text: str, *, named: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text.capitalize() + "."
    )
    if named:
        # Both `show alice` and `show --username alice`: people type the one, scripts the other.
        parser.add_argument("name", nargs="?", metavar="USERNAME")
        parser.add_argument("--username", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="answer as JSON")
    parser.set_defaults(run=_checked(as_admin(handler), parser, named))
    return parser


def _checked(
    run: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, named: bool
) -> Callable[[argparse.Namespace], int]:
    """Settle the arguments that argparse can't check alone; exit 2 with the usage when wrong."""

    def check(args: argparse.Namespace) -> int:
        if "all" in args and (args.key is None) != args.all:
            parser.error("give either --key PUBLIC_ID, or a username and --all")
        if "all" in args and args.key is not None:
            if args.name or args.username:
                parser.error("give either --key PUBLIC_ID, or a username and --all")
        elif named:
            if (args.name is None) == (args.username is None):
                parser.error("give one username, as USERNAME or --username USERNAME")
            args.username = args.name if args.username is None else args.username
        if "some_limit" in args and not limits_cli.given(args):
            parser.error("give at least one limit")
        return run(args)

    return check


def _create(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    key = users.create(
        connection,
        args.username,
        lifetime=args.expires,
        allowed_models=args.models,
        scopes=args.scopes or DEFAULT,
        label=args.label,
        weight=args.weight,
        priority=args.priority,
        **limits_cli.given(args),
    )
    return _hand_over(key, args, f"Created the user {args.username}.")


def _list(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    found = users.list_users(connection)
    if args.json:
        print_json([asdict(user) for user in found])
    elif found:
        header = ("USERNAME", "STATUS", "KEYS", "LIMIT", "MODELS", "LAST USED", "CREATED")
        print_table(header, [_user_row(user) for user in found], right=["KEYS"])
    else:
        print(f"no users yet; create one with `{PROGRAM} user create --username NAME`")
    return 0


def _show(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    user = users.get(connection, args.username)
    keys = users.list_keys(connection, user)
    used = users.used(connection, user)
    if args.json:
        print_json({**asdict(user), "used": used, "keys": [asdict(key) for key in keys]})
        return 0
    for name, value in (
        ("Username", user.username),
        ("Status", user.status),
        *limits_cli.lines(user, used),
        ("Weight", str(user.weight)),
        ("Models", _models_text(user)),
        ("Created", _time(user.created_at)),
    ):
        print(f"{name + ':':10}{value}")
    print()
    header = ("KEY", "STATE", "SCOPES", "PRIORITY", "CREATED", "EXPIRES", "LAST USED", "LABEL")
    rows = [
        (
            key.public_id,
            key.state,
            ",".join(key.scopes),
            key.priority,
            _time(key.created_at),
            _time(key.expires_at),
            _time(key.last_used_at),
            key.label or "",
        )
        for key in keys
    ]
    print_table(header, rows)
    return 0


def _disable(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    return _set_status(connection, args, "disabled")


def _enable(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    return _set_status(connection, args, "active")


def _set_status(
    connection: psycopg.Connection, args: argparse.Namespace, status: users.Status
) -> int:
    changed = users.set_status(connection, args.username, status)
    return _say(
        args,
        {"username": args.username, "status": status, "changed": changed},
        f"{args.username} is {'now' if changed else 'already'} {status}",
    )


def _delete(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    user = users.get(connection, args.username)
    if not args.yes and not _confirmed(f"Delete {user.username} and their keys?"):
        raise users.UserError("nothing deleted; add --yes to delete without being asked")
    users.delete(connection, user.username)
    return _say(args, {"username": user.username, "deleted": True}, f"deleted {user.username}")


def _rotate(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    lifetime: timedelta | Literal["as before"] | None = args.expires or "as before"
    if args.expires == "never":
        lifetime = None
    key, old = users.rotate(
        connection,
        args.username,
        overlap=args.overlap,
        lifetime=lifetime,
        scopes=args.scopes or "as before",
        label=args.label,
    )
    text = f"A new key for {args.username}."
    if old:
        until = f"end in {timespan.text(args.overlap)}" if args.overlap else "ended"
        text += f" The old ones ({', '.join(old)}) {until}."
    return _hand_over(key, args, text)


def _revoke(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    if args.all:
        revoked = users.revoke_all(connection, args.username)
        text = f"revoked {len(revoked)} key(s) of {args.username}"
    else:
        revoked = [args.key] if users.revoke(connection, args.key) else []
        text = f"{args.key} is {'now' if revoked else 'already'} revoked"
    return _say(args, {"revoked": revoked}, text)


def _set_limit(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    users.set_limits(connection, args.username, limits_cli.given(args))
    return _say_user(connection, args, lambda user: f"limit: {limits_cli.summary(user)}")


def _set_weight(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    users.set_weight(connection, args.username, args.weight)
    return _say_user(connection, args, lambda user: f"weight: {user.weight}")


def _set_priority(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    users.set_priority(connection, args.key, args.priority)
    document = {"key_id": args.key, "priority": args.priority}
    return _say(args, document, f"{args.key} is now {args.priority}")


def _allow_models(connection: psycopg.Connection, args: argparse.Namespace) -> int:
    users.allow_models(connection, args.username, args.models)
    return _say_user(connection, args, lambda user: f"models: {_models_text(user)}")


def _hand_over(key: NewKey, args: argparse.Namespace, text: str) -> int:
    """The key alone on stdout, so that a script can take it; what people need on stderr."""
    if args.json:
        print_json({"username": args.username, "key_id": key.public_id, "key": key.text})
    else:
        print(f"{text} The key below is shown this once; keep it safe.", file=sys.stderr)
        print(key.text)
    return 0


def _say(args: argparse.Namespace, document: dict[str, Any], text: str) -> int:
    if args.json:
        print_json(document)
    else:
        print(text)
    return 0


def _say_user(
    connection: psycopg.Connection, args: argparse.Namespace, text: Callable[[users.User], str]
) -> int:
    user = users.get(connection, args.username)
    return _say(args, asdict(user), f"{user.username}: {text(user)}")


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _user_row(user: users.User) -> tuple[str, ...]:
    return (
        user.username,
        user.status,
        str(user.active_keys),
        limits_cli.summary(user),
        _models_text(user),
        _time(user.last_used_at),
        _time(user.created_at),
    )


def _models_text(user: users.User) -> str:
    if user.allowed_models is None:
        return "all"
    return ",".join(user.allowed_models) or "none"


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")


def _span(text: str) -> timedelta:
    try:
        return timespan.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _life(text: str) -> timedelta:
    span = _span(text)
    if not span:
        raise argparse.ArgumentTypeError(f"{text!r}: a key has to live for a while")
    return span


def _life_or_never(text: str) -> timedelta | Literal["never"]:
    return "never" if text == "never" else _life(text)


def _scopes(text: str) -> list[str]:
    scopes = [scope.strip() for scope in text.split(",") if scope.strip()]
    try:
        return users.check_scopes(scopes)
    except users.UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _weight(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_WEIGHT:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number 1..{MAX_WEIGHT}")
    return int(text)


def _models(text: str) -> list[str] | None:
    if text == "all":
        return None
    models = [model.strip() for model in text.split(",") if model.strip()]
    if not models:
        raise argparse.ArgumentTypeError("expected model ids separated by commas, or 'all'")
    return models
