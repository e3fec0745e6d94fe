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
    weight: int = 1
    """The user's share of a busy model, against those of the others: 1 to 100."""
    batch: bool = False
    """Whether the key's requests let those of others go first."""
