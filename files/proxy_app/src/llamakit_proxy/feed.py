"""A connection to Postgres that hears notifications: owned by one task, made again when lost."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import ClassVar

import psycopg

from .database import DatabaseError, connect_async, end, explain_failure
from .settings import Settings, SettingsError

ROUND_SECONDS = 3.0
"""How long Postgres may take for a few statements before the connection is given up."""
_PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = (0.1, 2.0)

_log = logging.getLogger(__name__)


class Feed(ABC):
    """What follows the database for a part of the proxy that goes on without it for a while."""

    subject: ClassVar[str]
    """Of which part, for the log and for the name that Postgres shows."""
    meanwhile: ClassVar[str]
    """What that means for requests while the database is away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connected = False
        self._worked = False
        """Whether the last connection was of use, so that the next one is tried soon."""
        self._closing = asyncio.Event()
        self._wake = asyncio.Event()
        self._first_try = asyncio.Event()
        self._last_trouble = ""
        self._connection: psycopg.AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the database is followed now."""
        return self._connected

    async def start(self) -> None:
        """Start, and wait a few seconds for the first attempt to connect to succeed or fail."""
        self._task = asyncio.create_task(self._run(), name=self.subject)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._first_try.wait()

    async def close(self) -> None:
        """Say the last and stop, within a few seconds."""
        if self._task is None:
            return
        self._closing.set()
        self._wake.set()
        await end(self._task, lambda: self._connection, ROUND_SECONDS)

    @abstractmethod
    async def _follow(self, connection: psycopg.AsyncConnection) -> None:
        """All that is done with a new connection. Returns when the feed is closing."""

    @abstractmethod
    def _lost(self) -> None:
        """There is no connection any more: nobody may wait for it."""

    def _follows(self) -> None:
        """The connection is of use from now on."""
        self._connected = True
        self._first_try.set()

    async def _rest(self, connection: psycopg.AsyncConnection, seconds: float) -> bool:
        """Wait until there is something to do, or time is up; whether the server spoke."""
        heard = False

        def hear() -> None:
            nonlocal heard
            heard = True
            self._wake.set()

        loop = asyncio.get_running_loop()
        descriptor = connection.fileno()
        loop.add_reader(descriptor, hear)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
        finally:
            loop.remove_reader(descriptor)
        self._wake.clear()
        return heard

    async def _run(self) -> None:
        shortest, longest = _RETRY_SECONDS
        delay = shortest
        while not self._closing.is_set():
            self._worked = False
            await self._session()
            delay = shortest if self._worked else min(delay * 2, longest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._closing.wait()

    async def _session(self) -> None:
        """Connect and follow until the connection is lost."""
        trouble = ""
        try:
            application = f"llamakit-proxy {self.subject}"
            connection = await connect_async(self._settings, application=application)
            async with connection:
                self._connection = connection
                await self._follow(connection)
        except (DatabaseError, SettingsError) as error:
            trouble = str(error)
        except psycopg.Error as error:
            trouble = explain_failure(error)
        except Exception:
            # A mistake of ours must not last until the next start: keys could not be revoked.
            _log.exception("%s: following the database failed, and starts again", self.subject)
        finally:
            self._connected = False
            self._connection = None
            self._lost()
            self._first_try.set()
        if trouble and trouble != self._last_trouble:
            _log.warning("%s: %s; %s", self.subject, trouble, self.meanwhile)
        self._last_trouble = trouble
