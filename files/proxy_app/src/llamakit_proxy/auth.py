"""From an Authorization header to an identity, without a database round trip for known keys."""

import hmac
import time

from . import keys
from .errors import ApiError, unavailable
from .identity import Identity
from .key_cache import KeyCache
from .key_feed import KeyFeed
from .settings import Settings

_RETRY_AFTER_SECONDS = 2
# last_used_at is as exact as this; it keeps a busy key from costing more than a write a minute.
_USE_SECONDS = 60.0
# Compared with when there is no key of the id, so that the same work is done either way.
_NO_KEY = bytes(32)

_MISSING = (
    "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'; "
    "whoever runs this server can create one for you."
)
_WRONG = (
    "Incorrect API key provided. Check that it is complete and still valid; "
    "whoever runs this server can give you a new one."
)


class RefusedKeyError(ApiError):
    """401. ``identity`` is set when the secret was right but the key or its user is not active.

    It is for the request log alone: the answer is the same for every refused key.
    """

    def __init__(self, message: str, identity: Identity | None = None) -> None:
        super().__init__(
            401,
            "invalid_api_key",
            message,
            type="invalid_request_error",
            headers={"WWW-Authenticate": 'Bearer realm="llamakit"'},
        )
        self.identity = identity


class KeyStore:
    """The keys this process has seen, kept true to the database within a second."""

    def __init__(self, settings: Settings) -> None:
        self._cache = KeyCache()
        self._feed = KeyFeed(settings, self._cache)

    @property
    def connected(self) -> bool:
        """Whether the database can be asked now; readiness and metrics want to know."""
        return self._feed.connected

    @property
    def remembered(self) -> int:
        """How many keys this process knows without asking."""
        return len(self._cache)

    async def start(self, *, until_connected: bool = False) -> None:
        """Connect; returns after a few seconds also when Postgres is away, and keeps trying.

        With ``until_connected`` it returns only when Postgres has answered. SchemaError when the
        schema is too old.
        """
        await self._feed.start()
        if until_connected:
            await self._feed.answered.wait()
        if self._feed.refusal is not None:
            raise self._feed.refusal

    async def close(self) -> None:
        """Stop following the database."""
        await self._feed.close()

    async def authenticate(self, authorization: bytes | None) -> Identity:
        """The identity behind an Authorization header's value.

        RefusedKeyError (401) for whatever is not a good key; ApiError 503 with Retry-After when
        this process does not know the key and Postgres can't be asked.
        """
        presented = keys.from_authorization(authorization)
        if presented is None:
            raise RefusedKeyError(_MISSING if authorization is None else _WRONG)
        public_id = presented.public_id
        answered = self._cache.is_sure(public_id) or await self._feed.ask(public_id)
        key = self._cache.get(public_id)
        if key is None and not answered:
            raise unavailable(
                "auth_unavailable",
                "Your API key can't be checked at the moment. Try again shortly.",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        right = hmac.compare_digest(presented.sha256, _NO_KEY if key is None else key.sha256)
        if key is None or not right:
            raise RefusedKeyError(_WRONG)
        now = time.time()
        expires_at = key.identity.expires_at
        if not key.active or (expires_at is not None and now >= expires_at):
            raise RefusedKeyError(_WRONG, key.identity)
        if abs(now - key.noted_at) >= _USE_SECONDS:
            key.noted_at = now
            self._feed.note_use(public_id, now)
        return key.identity
