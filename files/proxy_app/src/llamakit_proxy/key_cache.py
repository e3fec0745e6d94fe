"""What one process remembers of keys: a bounded number of good ones, and of ids that are none."""

from collections import OrderedDict
from dataclasses import dataclass, field

from .identity import Identity


@dataclass(slots=True)
class CachedKey:
    """A row of api_keys joined with its user."""

    identity: Identity
    active: bool
    """Neither revoked nor of a disabled user; whether it has expired is asked at each use."""
    sha256: bytes = field(repr=False)
    noted_at: float = 0.0
    """When its use was last passed on, seconds since the epoch."""
    confirmed_in: int = -1
    """The cache's generation in which the database last confirmed it."""


class KeyCache:
    """Public ids and what is known of them; the least recently used are forgotten first.

    Ids that are no key are kept apart from keys, so that a flood of invented ones can't push out
    the keys of users. Clients choose how many such ids come; they don't choose the bound.
    """

    def __init__(self, *, max_keys: int = 100_000, max_absent: int = 10_000) -> None:
        self._keys: OrderedDict[str, CachedKey] = OrderedDict()
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._generation = 0
        self._max_keys = max_keys
        self._max_absent = max_absent

    def __len__(self) -> int:
        return len(self._keys)

    def is_sure(self, public_id: str) -> bool:
        """Whether what is remembered of an id, a key or none, needs no confirmation before use."""
        key = self._keys.get(public_id)
        if key is None:
            return public_id in self._absent
        return key.confirmed_in == self._generation

    def get(self, public_id: str) -> CachedKey | None:
        """The key, confirmed or not; None when the id is none, or not known."""
        key = self._keys.get(public_id)
        if key is not None:
            self._keys.move_to_end(public_id)
        return key

    def key_ids(self) -> list[str]:
        """The public ids of all keys held."""
        return list(self._keys)

    def put(self, public_id: str, key: CachedKey | None) -> None:
        """What the database says: a key, or None when it has none of this id."""
        if key is None:
            self._keys.pop(public_id, None)
            self._absent[public_id] = None
            if len(self._absent) > self._max_absent:
                self._absent.popitem(last=False)
            return
        self._absent.pop(public_id, None)
        before = self._keys.get(public_id)
        if before is not None:
            key.noted_at = before.noted_at
        key.confirmed_in = self._generation
        self._keys[public_id] = key
        if len(self._keys) > self._max_keys:
            self._keys.popitem(last=False)

    def doubt(self, public_id: str) -> bool:
        """The database has changed this key; whether it is one that is remembered."""
        self._absent.pop(public_id, None)
        key = self._keys.get(public_id)
        if key is not None:
            key.confirmed_in = -1
        return key is not None

    def doubt_all(self) -> None:
        """Any key may have changed."""
        self._generation += 1
        self._absent.clear()
