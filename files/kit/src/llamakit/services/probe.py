"""Asks a service whether it is up: it is when it answers, not when its process exists."""

from __future__ import annotations

import http.client
import socket
import struct
from typing import Any

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def answers(service: dict[str, Any], timeout: float) -> bool:
    """True when the service answers its probe within ``timeout`` seconds.

    ``service`` is a definition from services.d with ``host``, ``port`` and ``probe``, whose
    ``type`` is ``http`` (a GET of ``path`` must give 200) or ``postgres`` (the server must answer
    an SSLRequest; PostgreSQL does so only when it accepts connections or is about to refuse them).
    """
    host, port = service["host"], int(service["port"])
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - an address to connect to, not one to bind
        host = "127.0.0.1"
    try:
        if service["probe"]["type"] == "http":
            return _http(host, port, service["probe"]["path"], timeout)
        return _postgres(host, port, timeout)
    except (OSError, http.client.HTTPException):
        return False


def _http(host: str, port: int, path: str, timeout: float) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    finally:
        connection.close()


def _postgres(host: str, port: int, timeout: float) -> bool:
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(SSL_REQUEST)
        return connection.recv(1) in {b"S", b"N"}
