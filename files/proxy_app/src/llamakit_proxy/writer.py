"""How an answer is written for its client: what an API makes of a chat."""

from typing import Any, Protocol

from . import sse, wire
from .chunks import Chunks
from .errors import ApiError


class Writer(Protocol):
    """Writes one answer: as a stream, or whole."""

    end: bytes
    """What a stream that came to its proper end has after its last event."""
    verbatim: bool
    """Whether the client gets the backend's ordinary chunks as they are."""

    def read(self, payload: bytes) -> bytes:
        """What a stream's client gets for one payload of the backend; b"" when that is nothing.
        Raises ApiError as ``Chunks.read`` does."""

    def closing(self) -> bytes:
        """The last events of a stream whose chunks came to their proper end."""

    def failure(self, error: ApiError) -> bytes:
        """The end of a stream that failed."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer without a stream, made of the one that ``Assembly`` wrote."""


class ChunkWriter:
    """Chat and completions: the client reads chunks, as the backend writes them."""

    end = sse.DONE
    verbatim = True

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    def read(self, payload: bytes) -> bytes:
        """The chunks as events."""
        if self._chunks.is_ordinary(payload):
            return sse.event(payload)
        return b"".join(map(sse.event, self._chunks.read(payload)))

    def closing(self) -> bytes:
        """The last chunks."""
        return b"".join(
            [sse.event(wire.encode_leniently(chunk)) for chunk in self._chunks.closing()]
        )

    def failure(self, error: ApiError) -> bytes:
        """The error object as the last event."""
        return sse.event(error.encode())

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer as it is."""
        return answer
