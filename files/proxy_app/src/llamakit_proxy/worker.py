"""`llamakit-proxy worker`: the process that serves. The master starts it; see master.py.

What the two say to each other is part of every release, because a worker may be newer than its
master: arguments as below; on the channel the worker sends one line of JSON when it can serve
(``drain_seconds`` and ``reload_drain_seconds`` say how long it may take to end), and serves when it
gets ``go``; SIGUSR1 means that another worker serves from now on, SIGTERM that nobody will.
"""

import argparse
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence

from .settings import Settings, SettingsError
from .settings import load as load_settings

_PR_SET_PDEATHSIG = 1


def run(arguments: Sequence[str]) -> int:
    """Serve; the exit code. SettingsError when that can't begin."""
    options = _options(arguments)
    _die_with(options.master)
    # A hang-up or Ctrl+C on a terminal reaches the whole group; what it means is the master's.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=options.channel) as channel:
        listeners = [socket.socket(fileno=number) for number in options.listen]
        return _serve(listeners, channel, replacing=options.replacing)


def _serve(listeners: list[socket.socket], channel: socket.socket, *, replacing: bool) -> int:
    # Only now: what these import takes a while, and should end with the master.
    import asyncio
    import gc
    import logging

    import uvloop

    from .database import DatabaseError
    from .logging import LOGGER, configure
    from .server import Server

    async def live() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, server.stop)
        loop.add_signal_handler(signal.SIGUSR1, server.retire)
        await server.prepare(replacing=replacing)
        channel.setblocking(False)
        await loop.sock_sendall(channel, _ready(settings))
        # What was imported stays. The collector took tens of milliseconds to find that out again,
        # and nobody was served meanwhile.
        gc.collect()
        gc.freeze()
        # An end without a word: the master has thought better of it.
        if await loop.sock_recv(channel, 16):
            await server.serve_on(listeners)

    configure()
    # uvicorn warns of every request that is not HTTP; the answer says it, the log need not.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    settings = load_settings()
    for listener in listeners:
        port = listener.getsockname()[1]
        if settings.proxy_port not in (0, port):
            LOGGER.warning(
                "the proxy listens on port %d, LLAMA_PROXY_PORT is %d: restart it, or its socket "
                "unit, to change the port",
                port,
                settings.proxy_port,
            )
    server = Server(settings)
    try:
        uvloop.run(live())
    except DatabaseError as error:
        raise SettingsError(str(error)) from None
    return 0


def _ready(settings: Settings) -> bytes:
    return (
        json.dumps(
            {
                "ready": True,
                "release": settings.release,
                "drain_seconds": settings.drain_timeout_seconds,
                "reload_drain_seconds": settings.reload_drain_timeout_seconds,
            }
        ).encode()
        + b"\n"
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="llamakit-proxy worker",
        description="Serves the proxy's requests. Started by `llamakit-proxy serve`, not by hand.",
    )
    parser.add_argument("--master", type=int, required=True, help="the master's process id")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of its socket")
    parser.add_argument("--listen", type=int, nargs="+", required=True, help="descriptors")
    parser.add_argument("--replacing", action="store_true", help="another worker serves already")
    return parser.parse_args(arguments)


def _die_with(master: int) -> None:
    """Have the kernel end this process with the master, however that ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
    if os.getppid() != master:
        # It ended before the kernel knew of our wish.
        sys.exit(1)
