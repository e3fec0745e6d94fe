"""One request's attempts: asked of one backend, and of another when that one fails.

Never after the client has something of an answer. A backend that takes no connection was asked
nothing, so every replica may be tried; when there is no other, it is tried again for a moment,
because it may just be starting anew. One that failed while it worked on the request is replaced
once: a request that ends its model server takes two of them with it at most.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .backends import Backends
from .circuit import Failure
from .errors import ApiError, BackendError
from .exchange import Exchange
from .queue import Place
from .upstream import Upstream

PAUSES_SECONDS = (0.25, 0.75, 1.5)
"""Before a connection is tried again to the only backend there is."""


class Attempt(Protocol):
    """What is asked of a backend."""

    @property
    def committed(self) -> bool:
        """Whether the client has something of the answer."""

    @property
    def stalled(self) -> bool:
        """Whether the request was cut short because this attempt's backend gave nothing."""

    async def wait(self, place: Place) -> None:
        """Wait for the place. Raises ApiError."""

    async def run(self, upstream: Upstream, begun: Callable[[], None]) -> None:
        """Ask and read the answer to its end; ``begun`` is called when it begins. Raises ApiError;
        ``run`` may be called again then, unless ``committed``."""


async def complete(exchange: Exchange, backends: Backends, place: Place, attempt: Attempt) -> None:
    """Have a backend answer. Raises ApiError."""
    pauses = iter(PAUSES_SECONDS)
    replaced = False
    while True:
        with _timed(exchange):
            await attempt.wait(place)
        try:
            exchange.begun = True
            upstream = backends.upstream(place.backend)
            with exchange.asking(upstream.backend):
                await attempt.run(upstream, place.begun)
            place.answered()
            return
        except asyncio.CancelledError:
            if attempt.stalled:
                place.failed(Failure.STALLED)
            raise
        except ApiError as error:
            if error.status < 500:
                # It is the request that was wrong, and the backend said so.
                place.answered()
                raise
            failure = error.failure if isinstance(error, BackendError) else Failure.REFUSED
            asked = failure is not Failure.UNREACHABLE
            if attempt.committed or (asked and replaced):
                place.failed(failure)
                raise
            if not asked and not place.can_move() and place.can_retry():
                pause = next(pauses, None)
                if pause is not None:
                    await asyncio.sleep(pause)
                    place.since = exchange.loop.time()
                    continue
                place.failed(failure, sure=True)
                raise
            place.failed(failure)
            if not place.move():
                raise
            replaced |= asked
            exchange.failovers += 1


@contextmanager
def _timed(exchange: Exchange) -> Iterator[None]:
    """The block is a wait in the queue."""
    since = time.perf_counter()
    exchange.enter("queued")
    try:
        yield
    finally:
        exchange.queue_seconds = (exchange.queue_seconds or 0.0) + time.perf_counter() - since
    exchange.enter("running")
