"""uvicorn around the application, with an end at which nobody is cut off who need not be."""

import asyncio
import contextlib
import socket
from typing import Any, cast

import uvicorn

from .app import Application
from .listener import BACKLOG
from .protocol import HEADER_SECONDS, Protocol, State
from .service import Service
from .settings import Settings
from .tls import server_context

KEEP_ALIVE_SECONDS = 75
IDLE_GRACE_SECONDS = 6.0
"""An old worker leaves idle connections open for so long: who asks again meanwhile is answered,
and told to come back on a new connection. Clients that do not ask within five seconds (httpx, on
which OpenAI's is built, and Node) drop the connection by themselves by then, so that none of them
asks in the very moment it is closed. TLS handshakes that are under way end meanwhile, too."""
LAST_CALL_SECONDS = 0.5
"""For so long after a stop requests are served that had come in before it."""
LAST_WORDS_SECONDS = 3.0
"""How long requests that are cut short may take to say so."""
_TICK_SECONDS = 0.1
_DATE_SECONDS = 1.0


class Server(uvicorn.Server):
    """Serves until it is told to retire, when another worker has taken over, or to stop."""

    config: uvicorn.Config
    server_state: State

    def __init__(self, settings: Settings) -> None:
        """RoutesError or SettingsError when the routes or the certificate can't be used."""
        self._settings = settings
        self._service = Service(settings)
        self._stopping = False
        self._leave = asyncio.Event()
        config = uvicorn.Config(
            cast(Any, Application(self._service)),
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=True,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        config.load()
        config.ssl = server_context(settings)
        super().__init__(config)
        self.server_state = State()

    def retire(self) -> None:
        """Take no more connections, serve those there are to their end, then be done."""
        self._leave.set()

    def stop(self) -> None:
        """The same in a hurry: who waits is sent away, who is answered may finish."""
        self._stopping = True
        self._leave.set()

    async def prepare(self, *, replacing: bool) -> None:
        """All that has to be there before the first request. With ``replacing`` that includes
        Postgres: the worker that serves now knows keys that this one would have to ask for.

        DatabaseError when the database's schema is too old.
        """
        await self._service.start(wait_for_database=replacing)

    async def serve_on(self, listeners: list[socket.socket]) -> None:
        """Serve until told otherwise."""
        if not self._leave.is_set():
            await self.startup(listeners)
            await self.main_loop()
            await self.shutdown(listeners)
        await self._service.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections. Replaces uvicorn's, which knows no limits for handshakes."""
        config, loop = self.config, asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if config.ssl is not None:
            tls = {
                "ssl": config.ssl,
                "ssl_handshake_timeout": HEADER_SECONDS,
                "ssl_shutdown_timeout": self._settings.write_timeout_seconds,
            }

        # What was said last to a client that takes nothing stays with the kernel, or with a closed
        # connection's transport; neither keeps it for longer. Accepted sockets inherit it.
        patience = round(self._settings.write_timeout_seconds * 1000)
        for listener in sockets or ():
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)

        def connection() -> Protocol:
            return Protocol(config, self.server_state, {}, loop)

        self.servers = [
            await loop.create_server(connection, sock=listener, backlog=BACKLOG, **tls)
            for listener in sockets or ()
        ]
        self.started = True

    async def main_loop(self) -> None:
        """Until this worker is to leave, which is heard at once."""
        while not self._leave.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_SECONDS):
                    await self._leave.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs come to its end. Replaces uvicorn's, which closes idle connections at once,
        so that a request that is on its way on one of them fails."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        state = self.server_state
        state.leaving = True
        for connection in list(state.connections):
            cast(Protocol, connection).close_soon()
        # What was accepted last has not even been looked at: a turn for that.
        await asyncio.sleep(_TICK_SECONDS)
        await self._drain()
        self._service.drain()
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=LAST_WORDS_SECONDS)

    async def _drain(self) -> None:
        """Until nobody is left, or the time for that is over."""
        state, loop = self.server_state, asyncio.get_running_loop()
        begin = loop.time()
        deadline = begin + self._settings.reload_drain_timeout_seconds
        grace_ends = begin + IDLE_GRACE_SECONDS
        stopped_at = float("inf")
        idle_since: dict[Protocol, float] = {}
        while (now := loop.time()) < deadline:
            if self._stopping and now < stopped_at:
                stopped_at = now
                deadline = min(deadline, now + self._settings.drain_timeout_seconds)
                # Over TLS there may be clients that have not finished shaking hands.
                grace_ends = now + (LAST_CALL_SECONDS if self.config.ssl else 0)
            if now - stopped_at >= LAST_CALL_SECONDS:
                self._service.drain()
            connections = [cast(Protocol, connection) for connection in state.connections]
            idle_since = {c: idle_since.get(c, now) for c in connections if c.idle}
            for connection, since in idle_since.items():
                if self._stopping or now - since >= IDLE_GRACE_SECONDS:
                    connection.close_if_silent()
            if now >= grace_ends and not state.tasks and all(c.over for c in connections):
                return
            await self.on_tick(0)
            await asyncio.sleep(_TICK_SECONDS)
