"""What can be done with users and their keys. Every change is one transaction."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from . import keys
from .program import PROGRAM
from .scopes import DEFAULT, SCOPES, in_order

_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_MODEL = re.compile(r"[^\s,\x00-\x1f\x7f]{1,200}")
_LABEL_LENGTH = 100

Status = Literal["active", "disabled"]
Priority = Literal["interactive", "batch"]


class UserError(Exception):
    """What was asked for can't be done. The text says why and what would work."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as the database has it."""

    id: int
    username: str
    status: Status
    rate_limit: int | None
    rate_window_seconds: int | None
    token_limit: int | None
    token_window_seconds: int | None
    max_concurrent: int | None
    day_budget: int | None
    month_budget: int | None
    allowed_models: list[str] | None
    weight: int
    created_at: datetime
    active_keys: int
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the database has it: all but the key."""

    public_id: str
    label: str | None
    scopes: list[str]
    priority: Priority
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    state: Literal["active", "expired", "revoked"]


LIMITS = (
    "rate_limit", "rate_window_seconds", "token_limit", "token_window_seconds", "max_concurrent",
    "day_budget", "month_budget",
)  # fmt: skip
"""The columns of a user's limits: 0 for no limit (a window never is), None for the default."""
NO_LIMITS: dict[str, int | None] = {name: 0 for name in LIMITS if not name.endswith("_seconds")}

_SELECT_USERS = """
SELECT users.id, username, status, rate_limit, rate_window_seconds, token_limit,
       token_window_seconds, max_concurrent, day_budget, month_budget, allowed_models,
       weight, users.created_at, max(last_used_at) AS last_used_at,
       count(public_id) FILTER (
           WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
       ) AS active_keys
FROM users LEFT JOIN api_keys ON user_id = users.id
WHERE %(username)s::text IS NULL OR lower(username) = lower(%(username)s)
GROUP BY users.id ORDER BY lower(username)
"""
_SELECT_KEYS = """
SELECT public_id, label, scopes, priority, created_at, expires_at, revoked_at, last_used_at,
       CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
            WHEN expires_at <= now() THEN 'expired' ELSE 'active' END AS state
FROM api_keys WHERE user_id = %s ORDER BY created_at, public_id
"""
# What is leased and idle is nobody's yet.
_SELECT_USED = """
SELECT kind, coalesce(sum(amount - idle) FILTER (
           WHERE until > extract(epoch FROM now()) * 1000
       ), 0)::bigint
FROM limit_accounts LEFT JOIN unnest(untils, amounts, idles) AS e (until, amount, idle) ON true
WHERE user_id = %s AND kind IN ('day', 'month') GROUP BY kind
"""


def check_username(username: str) -> str:
    """The name itself; UserError when it is not one."""
    if not _USERNAME.fullmatch(username):
        raise UserError(
            f"{username[:70]!r} can't be a username; expected 1 to 64 letters, digits or . _ @ -, "
            "the first a letter or digit"
        )
    return username


def check_models(models: Sequence[str]) -> list[str]:
    """The model ids without repeats, in order; UserError when one can't be an id."""
    for model in models:
        if not _MODEL.fullmatch(model):
            raise UserError(f"{model[:70]!r} can't be a model id; give ids separated by commas")
    return list(dict.fromkeys(models))


def check_scopes(scopes: Iterable[str]) -> list[str]:
    """The scopes without repeats, in one order; UserError when one is none, or there are none."""
    given = list(scopes)
    for scope in given:
        if scope not in SCOPES:
            raise UserError(f"{scope[:70]!r} is not a scope; expected some of: {', '.join(SCOPES)}")
    if not given:
        raise UserError(f"a key has at least one scope of: {', '.join(SCOPES)}")
    return in_order(given)


def list_users(connection: psycopg.Connection) -> list[User]:
    """All users, by name."""
    with connection.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(_SELECT_USERS, {"username": None}).fetchall()


def get(connection: psycopg.Connection, username: str) -> User:
    """One user, whose name may be given in any case. UserError when there is none."""
    check_username(username)
    with connection.cursor(row_factory=class_row(User)) as cursor:
        user = cursor.execute(_SELECT_USERS, {"username": username}).fetchone()
    if user is None:
        raise UserError(
            f"there is no user {username!r}; `{PROGRAM} user list` shows those there are"
        )
    return user


def list_keys(connection: psycopg.Connection, user: User) -> list[Key]:
    """A user's keys, the oldest first."""
    with connection.cursor(row_factory=class_row(Key)) as cursor:
        return cursor.execute(_SELECT_KEYS, (user.id,)).fetchall()


def create(
    connection: psycopg.Connection,
    username: str,
    *,
    lifetime: timedelta | None = None,
    allowed_models: Sequence[str] | None = None,
    scopes: Iterable[str] = DEFAULT,
    label: str | None = None,
    weight: int = 1,
    priority: Priority = "interactive",
    **limits: int | None,
) -> keys.NewKey:
    """A new user with a first key; UserError when the name is taken. ``limits`` are of LIMITS."""
    check_username(username)
    scopes = check_scopes(scopes)
    models = None if allowed_models is None else check_models(allowed_models)
    with _change(connection):
        row = connection.execute(
            "INSERT INTO users (username, allowed_models, weight)"
            " VALUES (%s, %s, %s) ON CONFLICT (lower(username)) DO NOTHING RETURNING id",
            (username, models, weight),
        ).fetchone()
        if row is None:
            raise UserError(
                f"there is a user {username!r} already; "
                f"`{PROGRAM} user rotate --username {username}` gives them a new key"
            )
        _set_limits(connection, row[0], limits)
        return _add_key(connection, row[0], lifetime, label, scopes, priority)


def set_status(connection: psycopg.Connection, username: str, status: Status) -> bool:
    """Enable or disable; whether that changed anything."""
    with _change(connection):
        user = get(connection, username)
        cursor = connection.execute(
            "UPDATE users SET status = %s WHERE id = %s AND status <> %s", (status, user.id, status)
        )
        return cursor.rowcount == 1


def set_limits(
    connection: psycopg.Connection, username: str, limits: Mapping[str, int | None]
) -> None:
    """Change these of LIMITS; the others stay as they are."""
    with _change(connection):
        _set_limits(connection, get(connection, username).id, limits)


def used(connection: psycopg.Connection, user: User) -> dict[str, int]:
    """Tokens used of the budgets: ``day`` and ``month``, where there was a budget to use."""
    return dict(connection.execute(_SELECT_USED, (user.id,)).fetchall())


def set_weight(connection: psycopg.Connection, username: str, weight: int) -> None:
    """The user's share of a busy model's turns, 1 to 100."""
    with _change(connection):
        user = get(connection, username)
        connection.execute("UPDATE users SET weight = %s WHERE id = %s", (weight, user.id))


def set_priority(connection: psycopg.Connection, public_id: str, priority: Priority) -> None:
    """Whether a key's requests go first or let others go first. UserError when there is none."""
    with _change(connection):
        _check_key(connection, public_id)
        connection.execute(
            "UPDATE api_keys SET priority = %s WHERE public_id = %s", (priority, public_id)
        )


def allow_models(
    connection: psycopg.Connection, username: str, models: Sequence[str] | None
) -> None:
    """The models the user may use; None for all, also those that are added later."""
    checked = None if models is None else check_models(models)
    with _change(connection):
        user = get(connection, username)
        connection.execute("UPDATE users SET allowed_models = %s WHERE id = %s", (checked, user.id))


def delete(connection: psycopg.Connection, username: str) -> None:
    """Remove a user and their keys. Rows of the request log keep the name."""
    with _change(connection):
        user = get(connection, username)
        connection.execute("DELETE FROM users WHERE id = %s", (user.id,))


def rotate(
    connection: psycopg.Connection,
    username: str,
    *,
    overlap: timedelta,
    lifetime: timedelta | Literal["as before"] | None = "as before",
    scopes: Iterable[str] | Literal["as before"] = "as before",
    label: str | None = None,
) -> tuple[keys.NewKey, list[str]]:
    """A new key; the active old ones end after ``overlap``, at once when it is zero.

    Returns the new key and the public ids of the old ones. ``lifetime`` "as before" gives the new
    key as long as its youngest predecessor was given, so that rotating never lifts an expiry; its
    priority, and ``scopes`` "as before", are those of the youngest key that is active, or of the
    last one.
    """
    given = None if scopes == "as before" else check_scopes(scopes)
    with _change(connection):
        user = get(connection, username)
        every = list_keys(connection, user)
        if lifetime == "as before":
            lifetime = _given_lifetime(every)
        if label is None and every:
            label = every[-1].label
        active = [key for key in every if key.state == "active"]
        before = (active or every)[-1:]
        priority = before[0].priority if before else "interactive"
        if given is None:
            given = before[0].scopes if before else list(DEFAULT)
        old = [key.public_id for key in active]
        _end(connection, old, overlap)
        return _add_key(connection, user.id, lifetime, label, given, priority), old


def revoke(connection: psycopg.Connection, public_id: str) -> bool:
    """Revoke one key at once; False when it was revoked before. UserError when there is none."""
    with _change(connection):
        was_revoked = _check_key(connection, public_id)
        _end(connection, [public_id], timedelta())
        return not was_revoked


def revoke_all(connection: psycopg.Connection, username: str) -> list[str]:
    """Revoke a user's active keys at once; their public ids."""
    with _change(connection):
        user = get(connection, username)
        active = [key.public_id for key in list_keys(connection, user) if key.state == "active"]
        _end(connection, active, timedelta())
        return active


@contextmanager
def _change(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction that changes users or keys. One at a time, so that none can deadlock."""
    with connection.transaction():
        connection.execute("SELECT FROM key_epoch FOR UPDATE")
        yield


def _set_limits(
    connection: psycopg.Connection, user_id: int, limits: Mapping[str, int | None]
) -> None:
    for column, value in limits.items():
        if column not in LIMITS:
            raise ValueError(f"{column!r} is not a limit")
        statement = sql.SQL("UPDATE users SET {} = %s WHERE id = %s")
        connection.execute(statement.format(sql.Identifier(column)), (value, user_id))


def _check_key(connection: psycopg.Connection, public_id: str) -> bool:
    """Whether the key was revoked. UserError when there is none of this public id."""
    if not keys.PUBLIC_ID.fullmatch(public_id):
        raise UserError(
            "that is not a key's public id; expected the "
            f"{keys.PUBLIC_ID_LENGTH} characters between {keys.PREFIX} and the secret, "
            f"as `{PROGRAM} user show USERNAME` lists them"
        )
    row = connection.execute(
        "SELECT revoked_at IS NOT NULL FROM api_keys WHERE public_id = %s", (public_id,)
    ).fetchone()
    if row is None:
        raise UserError(
            f"there is no key {public_id}; `{PROGRAM} user show USERNAME` lists a user's keys"
        )
    revoked: bool = row[0]
    return revoked


def _add_key(
    connection: psycopg.Connection,
    user_id: int,
    lifetime: timedelta | None,
    label: str | None,
    scopes: list[str],
    priority: Priority,
) -> keys.NewKey:
    if label is not None and not (0 < len(label) <= _LABEL_LENGTH and label.isprintable()):
        raise UserError(f"a label is 1 to {_LABEL_LENGTH} printable characters")
    key = keys.generate()
    connection.execute(
        "INSERT INTO api_keys (public_id, user_id, sha256, label, scopes, priority, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, now() + %s)",
        (key.public_id, user_id, key.sha256, label, scopes, priority, lifetime),
    )
    return key


def _end(connection: psycopg.Connection, public_ids: Sequence[str], after: timedelta) -> None:
    if after:
        connection.execute(
            "UPDATE api_keys SET expires_at = least(expires_at, now() + %s)"
            " WHERE public_id = ANY(%s)",
            (after, list(public_ids)),
        )
    else:
        connection.execute(
            "UPDATE api_keys SET revoked_at = now()"
            " WHERE public_id = ANY(%s) AND revoked_at IS NULL",
            (list(public_ids),),
        )


def _given_lifetime(old: Sequence[Key]) -> timedelta | None:
    if not old or old[-1].expires_at is None:
        return None
    return old[-1].expires_at - old[-1].created_at
