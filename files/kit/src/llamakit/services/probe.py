"""Asks a service whether it is up: it is when it answers, not when its process exists.

The Ansible module apply_units has this file as one of its parts (by a link in
playbooks/plugins/module_utils), so it needs nothing but Python itself.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
from typing import Any

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def answers(service: dict[str, Any], timeout: float) -> bool:
    """True when the service answers its probe within ``timeout`` seconds.

    ``service`` is a definition from services.d with ``host``, ``port`` and ``probe``, whose
    ``type`` is ``http`` (a GET of ``path`` must give 200; ``tls`` says that it is encrypted) or
    ``postgres`` (the server must answer an SSLRequest; PostgreSQL does so only when it accepts
    connections or is about to refuse them).
    """
    try:
        if service["probe"]["type"] == "http":
            return _get(service, timeout)[0] == http.client.OK
        return _postgres(service, timeout)
    except (OSError, http.client.HTTPException):
        return False


def running_release(service: dict[str, Any], timeout: float) -> str | None:
    """The release that the service says it runs, in good health or not; None when it says none."""
    try:
        found = json.loads(_get(service, timeout)[1])
    except (OSError, http.client.HTTPException, ValueError):
        return None
    release = found.get("release") if isinstance(found, dict) else None
    return release if isinstance(release, str) else None


def _address(service: dict[str, Any]) -> tuple[str, int]:
    """Where to ask; a service that listens on every address is asked on this machine's own."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not an address to bind
    return everywhere.get(service["host"], service["host"]), int(service["port"])


def _get(service: dict[str, Any], timeout: float) -> tuple[int, bytes]:
    """Status and body."""
    host, port = _address(service)
    if service["probe"].get("tls"):
        # The service's own certificate names the host that clients know, not this address.
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=timeout, context=trusting
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", service["probe"]["path"])
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _postgres(service: dict[str, Any], timeout: float) -> bool:
    with socket.create_connection(_address(service), timeout=timeout) as connection:
        connection.sendall(SSL_REQUEST)
        return connection.recv(1) in {b"S", b"N"}
