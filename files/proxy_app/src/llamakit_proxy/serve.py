"""`llamakit-proxy serve`: uvicorn around the application, with a server's manners."""

import asyncio
import logging
import os
import socket
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .app import Application
from .errors import ApiError
from .exchange import ABORT
from .logging import configure
from .service import Service
from .settings import Settings, SettingsError

HEADER_SECONDS = 10.0
"""A connection that has not sent a whole head within this is closed, idle new ones included."""
MAX_HEAD = 32 << 10
KEEP_ALIVE_SECONDS = 75
BACKLOG = 1024


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with a limit on how large a request's head may be and how long it may
    take, OpenAI's error object for what is not HTTP, and a way to drop a client that stalls."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _completed = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        completed = self._completed
        super().data_received(data)
        # What ends one request may begin the next head: those few bytes go uncounted, once.
        if self._in_head and self._completed == completed:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self._refuse(431, "headers_too_large", "The request's headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"call": self.transport.abort}}
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._in_head = False
        size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if size > MAX_HEAD:
            self._refuse(431, "headers_too_large", "The request's headers are too large.")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._completed += 1
        self._in_head = True
        self._head_bytes = 0

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's own words
        if not self.transport.is_closing():
            self._refuse(400, "invalid_http", "This is not a valid HTTP/1.1 request.")

    def _expect_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = ApiError(status, code, message, type="invalid_request_error").encode()
        reason = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """A server that stops in order: nobody new, who waits is told, who is answered may finish."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.drain()
        await super().shutdown(sockets)


def make_server(settings: Settings) -> Server:
    """The server, not yet listening. RoutesError when the routes can't be used."""
    service = Service(settings)
    config = uvicorn.Config(
        cast(Any, Application(service)),
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_seconds)),
    )
    return Server(config, service)


def listen(settings: Settings) -> socket.socket:
    """The proxy's socket. SettingsError when its address can't be had."""
    host, port = settings.proxy_host, settings.proxy_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise SettingsError(
            f"can't listen on {host}:{port}: {reason}; see what uses it with `ss -ltnp`, "
            "or set LLAMA_PROXY_HOST and LLAMA_PROXY_PORT to another address"
        ) from error


def run(settings: Settings) -> int:
    """Serve until a signal says to stop; the exit code."""
    configure()
    # uvicorn warns of every request that is not HTTP; the answer says it, the log need not.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = make_server(settings)
    server.run(sockets=[listen(settings)])
    return 0 if server.started else 1
