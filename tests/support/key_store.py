"""Keys shown to a key store: whether one is good now, and whether that changes in time."""

import asyncio
import time

from llamakit_proxy.auth import KeyStore, RefusedKeyError
from llamakit_proxy.errors import ApiError

REVOKED_WITHIN_SECONDS = 1.0
"""How soon the end of a key holds in every process, and any other change of it."""


async def status_of(store: KeyStore, header: bytes | None) -> int:
    """What a request with this header is answered; 200 when it may go on."""
    try:
        await store.authenticate(header)
    except ApiError as error:
        return error.status
    return 200


async def refused_within(store: KeyStore, header: bytes, seconds: float) -> None:
    """Until the key is refused; an outage refuses no key."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            await store.authenticate(header)
        except RefusedKeyError:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the key was still good after {seconds} s")


async def accepted_within(store: KeyStore, header: bytes, seconds: float) -> None:
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
