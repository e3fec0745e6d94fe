"""Keys shown to a key store: whether one is good now, and whether that changes in time."""

import asyncio
import time
from typing import Any

from llamakit_proxy.auth import KeyStore, RefusedKeyError
from llamakit_proxy.errors import ApiError
from llamakit_proxy.identity import Identity

PATIENCE_SECONDS = 5.0
"""How long a change of a key is waited for. It is promised within one second, which a machine that
runs tests may need for other things."""


async def status_of(store: KeyStore, header: bytes | None) -> int:
    """What a request with this header is answered; 200 when it may go on."""
    try:
        await store.authenticate(header)
    except ApiError as error:
        return error.status
    return 200


async def refused_within(
    store: KeyStore, header: bytes, seconds: float = PATIENCE_SECONDS
) -> float:
    """Until the key is refused, and how long that took; an outage refuses no key."""
    start = time.monotonic()
    while (now := time.monotonic()) < start + seconds:
        try:
            await store.authenticate(header)
        except RefusedKeyError:
            return now - start
        await asyncio.sleep(0.01)
    raise AssertionError(f"the key was still good after {seconds} s")


async def accepted_within(
    store: KeyStore, header: bytes, seconds: float = PATIENCE_SECONDS
) -> None:
    """Until the key is good, whatever it is answered before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            await store.authenticate(header)
        except ApiError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError(f"the key was not good after {seconds} s")


async def identity_with(store: KeyStore, header: bytes, **expected: Any) -> Identity:
    """The identity of a key, once it has these values."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        identity = await store.authenticate(header)
        found = {name: getattr(identity, name) for name in expected}
        if found == expected:
            return identity
        assert time.monotonic() < deadline, f"{found}, expected {expected}"
        await asyncio.sleep(0.01)
