"""Bytes to a proxy exactly as a test wants them, and what comes back."""

import asyncio
import json
from typing import Any


async def exchange(port: int, *pieces: bytes, seconds: float = 10, pause: float = 0) -> bytes:
    """Everything that comes back for these bytes, until the proxy closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), seconds)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def head(key: str, *lines: str, method: str = "POST", path: str = "/v1/chat/completions") -> bytes:
    """A request's head with these header lines besides the usual ones."""
    fields = ["host: x", f"authorization: Bearer {key}", "content-type: application/json", *lines]
    return ("\r\n".join([f"{method} {path} HTTP/1.1", *fields]) + "\r\n\r\n").encode("latin-1")


def status(answer: bytes) -> int:
    """The status of the first answer."""
    return int(answer.split()[1])


def error(answer: bytes) -> dict[str, Any]:
    """The error object of an answer that is one."""
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return found
