"""From an Authorization header to an identity, without a database round trip for known keys."""

from .errors import ApiError
from .identity import Identity
from .settings import Settings


class KeyRefusedError(ApiError):
    """401. ``identity`` is set when the secret was right but the key or its user is not active.

    It is for the request log alone: the answer is the same for every refused key.
    """

    def __init__(self, message: str, identity: Identity | None = None) -> None:
        super().__init__(401, "invalid_api_key", message, type="invalid_request_error")
        self.identity = identity


class KeyStore:
    """The keys this process has seen, kept true to the database within a second."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def connected(self) -> bool:
        """Whether the last word from Postgres is recent; readiness and metrics ask."""
        raise NotImplementedError

    async def start(self) -> None:
        """Connect; returns after a few seconds also when Postgres is away, and keeps trying."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop following the database."""
        raise NotImplementedError

    async def authenticate(self, authorization: bytes | None) -> Identity:
        """The identity behind an Authorization header's value.

        KeyRefusedError (401) for whatever is not a good key; ApiError 503 with Retry-After when the
        key is not known to this process and Postgres can't be asked.
        """
        raise NotImplementedError
