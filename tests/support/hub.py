"""A local model hub: the resolve API, a storage server of another origin, and faults on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What goes wrong; each cut or status is used up by one request."""

    cut_after: list[int] = field(default_factory=list)  # bytes of a body before the connection ends
    statuses: list[int] = field(default_factory=list)  # answers instead of the file
    ignore_range: bool = False
    no_validator: bool = False  # nothing tells this file from another
    no_checksum: bool = False  # as for small files, which have no X-Linked-Etag with a SHA-256
    bytes_per_second: int = 0  # 0: as fast as it goes


@dataclass
class Hub:
    """Files by ``OWNER/NAME/FILE``; every request that came, with its headers."""

    files: dict[str, bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)  # repositories that want a token
    token: str = "hf_test"
    fault: Fault = field(default_factory=Fault)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def ranges(self) -> list[str]:
        """The Range headers the storage has seen, in order ("" for none)."""
        return [
            headers.get("range", "") for server, _, headers in self.requests if server == "storage"
        ]


class _QuietServer(ThreadingHTTPServer):
    """Does not print a traceback when a client goes away."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is what many of the tests want."""


def sha256(content: bytes) -> str:
    """The checksum of a file, as the hub tells it and as models.yaml lists it."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serves a hub and its storage on two free ports of the loopback interface."""
    hub = Hub()
    servers = [_QuietServer(("127.0.0.1", 0), _handler(hub, name)) for name in ("hub", "storage")]
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _handler(hub: Hub, name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            """Keeps the tests' output quiet."""

        def do_GET(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            hub.requests.append((name, self.path, headers))
            if hub.fault.statuses:
                self.refuse(hub.fault.statuses.pop(0))
            elif name == "hub":
                self.resolve(headers)
            else:
                self.send_file(headers)

        def resolve(self, headers: dict[str, str]) -> None:
            """``/OWNER/NAME/resolve/REVISION/FILE`` redirects to the storage."""
            owner, repository, _, _, *rest = self.path.strip("/").split("/")
            key = f"{owner}/{repository}/{'/'.join(rest)}"
            if f"{owner}/{repository}" in hub.gated:
                sent = headers.get("authorization", "")
                if sent != f"Bearer {hub.token}":
                    self.refuse(403 if sent else 401)
                    return
            if key not in hub.files:
                self.refuse(404)
                return
            content = hub.files[key]
            self.send_response(302)
            self.send_header("Location", f"{hub.storage_url}/{key}?signature=secret")
            if not hub.fault.no_checksum:
                self.send_header("X-Linked-Etag", f'"{sha256(content)}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_file(self, headers: dict[str, str]) -> None:
            content = hub.files[self.path.partition("?")[0].strip("/")]
            start = 0
            wanted = headers.get("range", "")
            if wanted and not hub.fault.ignore_range:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            else:
                self.send_response(200)
            if not hub.fault.no_validator:
                self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')  # noqa: S324
            self.send_header("Content-Length", str(len(content) - start))
            body = content[start:]
            # Decided before the client hears anything: a test may set the next fault after that.
            if hub.fault.cut_after:
                body = body[: hub.fault.cut_after.pop(0)]
                self.close_connection = True
            self.end_headers()
            self.write_body(body)

        def write_body(self, body: bytes) -> None:
            rate = hub.fault.bytes_per_second
            step = max(rate // 20, 1) if rate else max(len(body), 1)
            try:
                for at in range(0, len(body), step):
                    self.wfile.write(body[at : at + step])
                    if rate:
                        time.sleep(0.05)
            except OSError:
                self.close_connection = True

        def refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler
