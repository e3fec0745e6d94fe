"""What a key is for: which paths take which scope, and what is said to a key without it."""

from collections.abc import Iterable

from .errors import ApiError
from .identity import Identity

SCOPES = {
    "inference": "models and answers: all of /v1",
    "admin": "GET /admin/load: who uses which model now",
    "metrics": "GET /metrics from any machine",
}
"""Each scope with what it opens. None includes another."""
DEFAULT = ("inference",)


def needed(path: str) -> str | None:
    """The scope that a path takes, whether there is something at it or not; None for any key."""
    if path.startswith("/v1/"):
        return "inference"
    if path.startswith("/admin/"):
        return "admin"
    return "metrics" if path == "/metrics" else None


def check(identity: Identity, path: str) -> None:
    """ApiError 403 when the key has not the scope that ``path`` takes."""
    scope = needed(path)
    if scope is None or scope in identity.scopes:
        return
    had = ", ".join(in_order(identity.scopes))
    more = ",".join(in_order({*identity.scopes, scope}))
    raise ApiError(
        403,
        "insufficient_scope",
        f"This needs a key with the scope '{scope}'; yours has: {had}. Whoever runs this server "
        f"can give you one: user rotate {identity.username} --scopes {more}",
    )


def in_order(scopes: Iterable[str]) -> list[str]:
    """Without repeats, as SCOPES has them; names that are no scope are left out."""
    given = set(scopes)
    return [scope for scope in SCOPES if scope in given]
