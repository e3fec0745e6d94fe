"""What a client calls its request: an id of its own, and a place in a trace (W3C Trace Context).

Both are noted beside our id and never in its place. What is not in the expected form is not noted.
"""

import re
from dataclasses import dataclass

_ID = re.compile(rb"[!-~]{1,128}")
_TRACE_PARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-"
    rb"(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The span that a request is part of."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 of them."""
    sampled: bool
    """Whether whoever asks keeps its own part of the trace."""


def client_request_id(header: bytes | None) -> str | None:
    """An ``X-Request-ID``: 1 to 128 printable ASCII characters without spaces, else None."""
    if header is None or not _ID.fullmatch(header):
        return None
    return header.decode()


def trace_parent(header: bytes | None) -> TraceParent | None:
    """A ``traceparent``; None when it is missing or not one.

    A version after the first one, 00, may have more fields at its end.
    """
    match = _TRACE_PARENT.fullmatch(header or b"")
    if match is None or match["version"] == b"ff":
        return None
    if match["version"] == b"00" and match["more"] is not None:
        return None
    trace_id, span_id = match["trace"].decode(), match["span"].decode()
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, bool(int(match["flags"], 16) & _SAMPLED))
