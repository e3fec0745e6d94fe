"""HTTP/1.1's chunked transfer coding (RFC 9112, section 7.1), as far as it is written here."""


def chunk(data: bytes) -> bytes:
    """The data as one chunk. Without data it would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
