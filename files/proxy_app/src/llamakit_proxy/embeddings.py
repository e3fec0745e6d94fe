"""Embeddings: asked of a backend in parts, put together to one answer."""

import re
import sys
from array import array
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from . import body, wire
from .chunks import too_long
from .errors import ApiError, backend_away
from .exchange import Cause, Exchange
from .queue import Place
from .relay import backend_broke, refused
from .routes import Route
from .settings import Settings
from .upstream import BrokenError, Connection, UnreachableError, Upstream
from .validate.embedding import PATH
from .watchdog import Watchdog

INPUTS_AT_A_TIME = 64
"""One request to the backend embeds this many texts: answers stay small to hold and to parse, and
a client that leaves is noticed in between."""
MAX_ANSWER = 64 << 20
_OVERRUN = re.compile(rb"Requested tokens \((\d+)\) exceed batch size of (\d+)")


class Embedder:
    """The embeddings of one request."""

    committed = False
    """The client gets all at once."""
    stalled = False
    """Whether the request was cut short because its backend gave nothing."""

    def __init__(
        self, exchange: Exchange, inputs: list[str], settings: Settings, route: Route
    ) -> None:
        self._exchange = exchange
        self._inputs = inputs
        self._route = route
        # An answer comes in one piece at its end, so there is no progress to watch before.
        self._seconds = max(settings.stall_timeout_seconds, settings.queue_timeout_seconds)
        self._vectors: list[list[float]] = []
        self.tokens = 0

    async def wait(self, place: Place) -> None:
        """Wait in the queue. Raises ApiError."""
        if place.ready is not None:
            await place.ready

    async def run(self, upstream: Upstream, begun: Callable[[], None]) -> None:
        """Ask for all that is not there yet. Raises ApiError."""
        for start in range(len(self._vectors), len(self._inputs), INPUTS_AT_A_TIME):
            part = self._inputs[start : start + INPUTS_AT_A_TIME]
            answer = await self._ask(upstream, part)
            begun()
            try:
                vectors = [item["embedding"] for item in answer["data"]]
                tokens = self.tokens + answer["usage"]["prompt_tokens"]
            except (KeyError, TypeError):
                raise backend_broke() from None
            if len(vectors) != len(part) or not all(map(_is_vector, vectors)):
                raise ApiError(
                    502,
                    "backend_error",
                    "The model server did not give one vector per text; "
                    "the model may lack a pooling type.",
                )
            self._vectors.extend(vectors)
            self.tokens = tokens

    def document(self, *, base64: bool) -> dict[str, Any]:
        """The answer as OpenAI writes it."""
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _base64(vector) if base64 else vector,
                }
                for index, vector in enumerate(self._vectors)
            ],
            "model": self._route.id,
            "usage": {"prompt_tokens": self.tokens, "total_tokens": self.tokens},
        }

    async def _ask(self, upstream: Upstream, inputs: list[str]) -> Any:
        """The backend's answer for some of the inputs, parsed."""
        patience = Watchdog(self._exchange.loop, self._seconds, self._stall)
        patience.start()
        request = body.dump({"model": self._route.id, "input": inputs})
        connection: Connection | None = None
        try:
            connection = await upstream.post(PATH, request, limit=MAX_ANSWER)
            raw = await connection.read_all()
            if connection.status != 200:
                overrun = _OVERRUN.search(raw)
                if overrun is not None:
                    raise too_long(int(overrun[1]), int(overrun[2]))
                raise refused(connection)
            return wire.decode(raw)
        except UnreachableError:
            raise backend_away() from None
        except (BrokenError, ValueError):
            raise backend_broke() from None
        finally:
            patience.stop()
            if connection is not None:
                upstream.release(connection)

    def _stall(self) -> None:
        self.stalled = True
        self._exchange.interrupt(Cause.BACKEND_STALLED)


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)


def _base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI packs them."""
    packed = array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode()
