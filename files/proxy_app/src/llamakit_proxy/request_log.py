"""One row in llama_requests for every request, written in batches away from the request path."""

from dataclasses import dataclass

from .settings import Settings


@dataclass(slots=True)
class RequestRow:
    """What is kept of one request. Prompts and answers are never part of it."""

    created_at: float
    """When the request arrived, seconds since the epoch."""
    username: str
    user_id: int
    key_id: str
    method: str
    path: str
    """The route's template, never the path as the client sent it."""
    model: str | None
    status_code: int
    duration_ms: float
    request_bytes: int
    response_bytes: int
    prompt_tokens: int | None
    completion_tokens: int | None
    stream: bool
    error_code: str | None
    request_id: str
    """Unique; made by the proxy."""
    ttft_ms: float | None
    """From arrival to the first token."""
    queue_ms: float | None
    client: str | None
    """The client's address."""


class RequestLog:
    """Takes rows at once, writes them about twice a second."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def pending(self) -> int:
        """Rows that wait to be written."""
        raise NotImplementedError

    @property
    def dropped(self) -> int:
        """Rows lost since start, because the buffer was full or Postgres refused them."""
        raise NotImplementedError

    async def start(self) -> None:
        """Begin to write; Postgres need not be there yet."""
        raise NotImplementedError

    async def close(self) -> None:
        """Write what waits, for a few seconds at most, and stop."""
        raise NotImplementedError

    def record(self, row: RequestRow) -> None:
        """Take a row. Never blocks and never fails; a full buffer counts the row as dropped."""
        raise NotImplementedError
