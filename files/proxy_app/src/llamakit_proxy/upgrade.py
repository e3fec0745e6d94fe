"""A wish to go over to another protocol is left aside, and the request answered as it is.

That is what RFC 9110 (section 7.8) offers a server. Java's client wishes for HTTP/2 with each
request over plain HTTP. The parser takes what follows such a head for the other protocol, and would
lose the body; so the head is read once more, without the wish, and then what follows.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import httptools

_OF_THE_WISH = frozenset({b"upgrade", b"http2-settings"})


class Reader(Protocol):
    """Who uses the parser, and has its callbacks."""

    def read_anew(self, rest: bytes) -> bool:
        """Read the head that has come once more with another parser, without its wish, and then
        ``rest``; False when the connection is not to be read any further."""


class RequestParser(httptools.HttpRequestParser):
    """httptools' parser, for one who reads on behind a wish to upgrade."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        # As uvicorn has it: a client may send more behind its last request.
        self.set_dangerous_leniencies(lenient_data_after_close=True)
        self._reader = reader

    def feed_data(self, data: Any) -> None:
        """Read more bytes of a connection. Raises httptools' errors."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            if not self._reader.read_anew(data[wish.args[0] :]):
                raise

    def wishes(self) -> bool:
        """Whether the head that has come is to be read anew. A CONNECT, which is refused, is not:
        what follows it may be anything."""
        return bool(self.should_upgrade()) and self.get_method() != b"CONNECT"


def head_without_wish(
    method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """A request's head, as the client would have sent it that wishes for nothing."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            kept = [option for option in options if option.lower() not in _OF_THE_WISH]
            lines.append(b"connection: %b" % b", ".join(kept))
        elif name not in _OF_THE_WISH:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
