"""Embeddings: asked of a backend in parts, put together to one answer."""

import re
import sys
from array import array
from base64 import b64encode
from typing import Any

from . import body, wire
from .chunks import too_long
from .errors import ApiError, backend_away
from .exchange import Cause, Exchange
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

    def __init__(self, exchange: Exchange, settings: Settings, route: Route) -> None:
        self._exchange = exchange
        self._route = route
        # An answer comes in one piece at its end, so there is no progress to watch before.
        self._seconds = max(settings.stall_timeout_seconds, settings.queue_timeout_seconds)
        self._vectors: list[list[float]] = []
        self.tokens = 0

    async def run(self, upstream: Upstream, inputs: list[str]) -> None:
        """Ask for all of them. Raises ApiError."""
        for start in range(0, len(inputs), INPUTS_AT_A_TIME):
            part = inputs[start : start + INPUTS_AT_A_TIME]
            with self._exchange.asking(upstream.backend):
                answer = await self._ask(upstream, part)
            try:
                vectors = [item["embedding"] for item in answer["data"]]
                self.tokens += answer["usage"]["prompt_tokens"]
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
        exchange = self._exchange
        stalled = Watchdog(
            exchange.loop, self._seconds, lambda: exchange.interrupt(Cause.BACKEND_STALLED)
        )
        stalled.start()
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
            stalled.stop()
            if connection is not None:
                upstream.release(connection)


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)


def _base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI packs them."""
    packed = array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode()
