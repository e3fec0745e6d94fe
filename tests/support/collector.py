"""A collector of traces: what OTLP over HTTP is sent to, as far as the tests need it."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .backend import free_port


@dataclass
class Collector:
    """Takes spans and keeps them."""

    port: int = field(default_factory=free_port)
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    hold: Event = field(default_factory=Event)
    """Clear while nothing is to be answered."""

    def __post_init__(self) -> None:
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def trace(self, request_id: str, seconds: float = 15) -> list[Span]:
        """The spans of one of our requests, once they have come: itself, then by time."""
        deadline = time.monotonic() + seconds
        while True:
            roots = [
                s for s in self.spans if attributes(s).get("llamakit.request_id") == request_id
            ]
            if roots:
                children = [s for s in self.spans if s.parent_span_id == roots[0].span_id]
                return [roots[0], *sorted(children, key=lambda s: s.start_time_unix_nano)]
            assert time.monotonic() < deadline, f"no spans of {request_id} among {len(self.spans)}"
            time.sleep(0.05)

    def take(self, path: str, body: bytes) -> None:
        """What was sent."""
        assert path == "/v1/traces"
        self.hold.wait(60)
        request = ExportTraceServiceRequest.FromString(body)
        self.bodies.append(body)
        for resource in request.resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


def attributes(span: Span) -> dict[str, Any]:
    """A span's attributes as plain values."""
    return _values(span.attributes)


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextlib.contextmanager
def running_collector(collector: Collector) -> Iterator[Collector]:
    """It listens during the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            answer = ExportTraceServiceResponse().SerializeToString()
            with contextlib.suppress(ConnectionError):
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name there
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", collector.port), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
