"""KeyStore against a real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest

from llamakit_proxy import keys, users
from llamakit_proxy.auth import KeyStore, RefusedKeyError
from llamakit_proxy.errors import ApiError
from llamakit_proxy.settings import Settings


def bearer(key: keys.NewKey) -> bytes:
    return f"Bearer {key.text}".encode()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[KeyStore]:
    store = KeyStore(settings)
    await store.start()
    assert store.connected
    yield store
    await store.close()


async def refused_within(store: KeyStore, header: bytes, seconds: float) -> float:
    """Seconds until the key is refused; fails when it takes longer than ``seconds``."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        try:
            await store.authenticate(header)
        except RefusedKeyError:
            return time.monotonic() - start
        await asyncio.sleep(0.005)
    raise AssertionError(f"the key was still good after {seconds} s")


async def test_good_key(store: KeyStore, admin: psycopg.Connection) -> None:
    key = users.create(
        admin, "alice", rate_limit=7, rate_window_seconds=9, allowed_models=["a", "b"]
    )
    identity = await store.authenticate(bearer(key))
    assert identity.username == "alice"
    assert identity.key_id == key.public_id
    assert identity.allowed_models == {"a", "b"}
    assert (identity.rate_limit, identity.rate_window_seconds) == (7, 9)


async def test_revocation(store: KeyStore, admin: psycopg.Connection) -> None:
    key = users.create(admin, "alice")
    await store.authenticate(bearer(key))
    users.revoke(admin, key.public_id)
    print(await refused_within(store, bearer(key), 1.0))
    key, _ = users.rotate(admin, "alice", overlap=timedelta())
    await store.authenticate(bearer(key))
    users.set_status(admin, "alice", "disabled")
    print(await refused_within(store, bearer(key), 1.0))
    users.set_status(admin, "alice", "active")
    await asyncio.sleep(0.5)
    await store.authenticate(bearer(key))
    users.delete(admin, "alice")
    print(await refused_within(store, bearer(key), 1.0))
    with pytest.raises(ApiError):
        await store.authenticate(bearer(keys.generate()))
