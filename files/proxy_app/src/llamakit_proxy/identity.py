"""Who a request comes from, once its key has been checked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and the key they used. Never holds a secret, so it may be logged."""

    user_id: int
    username: str
    key_id: str
    """The public part of the key."""
    allowed_models: frozenset[str] | None
    """Model ids this user may use; None means all of them."""
    rate_limit: int | None
    """Requests per window, 0 for no limit; None means the server's default."""
    rate_window_seconds: int | None
    """Length of the window; None means the server's default."""
    expires_at: float | None
    """Seconds since the epoch after which the key is no longer good; None means never."""
    scopes: frozenset[str] = frozenset({"inference"})
    """What the key is for."""
    token_limit: int | None = None
    """Tokens per window; like all below 0 for no limit, and None for the server's default."""
    token_window_seconds: int | None = None
    max_concurrent: int | None = None
    """Requests that may be in the proxy at the same time."""
    day_budget: int | None = None
    """Tokens per UTC day."""
    month_budget: int | None = None
    weight: int = 1
    """The user's share of a busy model, against those of the others: 1 to 100."""
    batch: bool = False
    """Whether the key's requests let those of others go first."""
