"""Logs: one JSON object per line on stderr. Never a prompt, an answer or a key."""

import logging
import sys

from . import wire
from .exchange import Exchange
from .log_line import log_line, stamp, write_line

LOGGER = logging.getLogger("llamakit_proxy")


class JsonFormatter(logging.Formatter):
    """A record as one line. Of an exception only its type and place are kept: its text may hold
    what a client sent."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; control characters are escaped by that."""
        trouble: dict[str, object] = {}
        if record.exc_info and record.exc_info[0] is not None:
            trouble["exception"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                code = trace.tb_frame.f_code
                trouble["at"] = f"{code.co_name}:{trace.tb_lineno}"
        level = record.levelname.lower()
        return log_line(record.created, level, record.name, record.getMessage(), **trouble)


def configure() -> None:
    """Send every log record of this process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def request_line(exchange: Exchange, seconds: float) -> bytes:
    """One finished request as a line of JSON."""
    identity = exchange.identity
    line = {
        "time": stamp(exchange.created_at),
        "level": "info",
        "message": "request",
        "request_id": exchange.request_id,
        "client_request_id": exchange.client_request_id,
        "trace_id": exchange.trace_id,
        "client": exchange.client,
        "user": identity.username if identity else None,
        "key_id": identity.key_id if identity else None,
        "method": exchange.method,
        "path": exchange.path,
        "model": exchange.model,
        "stream": exchange.stream,
        "status": exchange.status,
        "error": exchange.error_code,
        "duration_ms": round(seconds * 1000, 2),
        "queue_ms": milliseconds(exchange.queue_seconds),
        "ttft_ms": milliseconds(exchange.ttft_seconds),
        "prompt_tokens": exchange.prompt_tokens,
        "completion_tokens": exchange.completion_tokens,
        "request_bytes": exchange.request_bytes,
        "response_bytes": exchange.response_bytes,
    }
    return wire.encode_line(line) + b"\n"


def milliseconds(seconds: float | None) -> float | None:
    """Seconds as rounded milliseconds; None stays None."""
    return None if seconds is None else round(seconds * 1000, 2)


def write_request(exchange: Exchange, seconds: float) -> None:
    """Log a finished request."""
    write_line(request_line(exchange, seconds))
