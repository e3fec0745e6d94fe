"""Server-sent events: taking a backend's apart, writing the client's."""

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
MAX_EVENT = 1 << 20
_SEPARATORS = [
    (separator.encode(), b"\\u%04x" % ord(separator)) for separator in ("\x85", "\u2028", "\u2029")
]


class EventTooLargeError(Exception):
    """The backend sent an event that does not end."""


class Splitter:
    """Bytes in, the ``data`` of complete events out. Comments and other fields are dropped."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""
        """An event that has begun; empty when the next bytes begin one."""

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that became complete with these bytes."""
        data = self.rest + data if self.rest else data
        if b"\r" in data:
            # Half of a CRLF at the end must wait for its other half.
            held = data.endswith(b"\r")
            data = (data[:-1] if held else data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            *events, rest = data.split(b"\n\n")
            self.rest = rest + b"\r" if held else rest
        elif data.startswith(b"data: ") and data.endswith(b"\n\n"):
            events = data[6:-2].split(b"\n\ndata: ")
            if b"\n" not in b"".join(events):
                # Whole events of one line each, which is what nearly always comes.
                self.rest = b""
                return events
            *events, self.rest = data.split(b"\n\n")
        else:
            *events, self.rest = data.split(b"\n\n")
        if len(self.rest) > MAX_EVENT:
            raise EventTooLargeError
        payloads = []
        for event in events:
            if event.startswith(b"data: ") and b"\n" not in event:
                payloads.append(event[6:])
            elif payload := _data(event):
                payloads.append(payload)
        return payloads


def _data(event: bytes) -> bytes:
    """The data of an event with several lines, a comment, or no space after the colon."""
    lines = []
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)


def event(payload: bytes) -> bytes:
    """One event, from JSON: a line break in it can only be between its parts. Unicode's own line
    separators are inside texts, and are escaped because some clients end a line at them."""
    if b"\n" in payload:
        payload = payload.replace(b"\n", b" ")
    if b"\xe2\x80" in payload or b"\xc2\x85" in payload:
        for separator, escaped in _SEPARATORS:
            payload = payload.replace(separator, escaped)
    return b"data: %b\n\n" % payload


def framed_size(chunk: bytes) -> int:
    """The size of the event that this is when it is one event, as ``event`` writes it, in one chunk
    of HTTP's, as we write it: no less and no more. 0 for anything else, and for some that are."""
    begin = chunk.find(b"\n") + 1
    size = len(chunk) - begin - 2
    # Not ``in``, which first takes what it looks for for a number: an exception each time.
    framed = (
        chunk.startswith(b"%x\r\ndata: " % size)
        and chunk.endswith(b"\n\n\r\n")
        and chunk.find(b"\n", begin) == begin + size - 2
        and chunk.find(b"\r", begin) == begin + size
        and (chunk.isascii() or (chunk.find(b"\xe2\x80") < 0 and chunk.find(b"\xc2\x85") < 0))
    )
    return size if framed else 0


def named_event(name: str, payload: bytes) -> bytes:
    """One event with a name. Neither has a line break."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)
