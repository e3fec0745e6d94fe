"""The proxy without one of its features, to see what that costs.

`python -m benchmarks.variants FEATURE` serves, with the settings of the environment. Nothing of
this is in the product: the part is taken out of the running modules here, and what it guarantees
goes with it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import uvloop

from llamakit_proxy import auth, logging, metrics, request_log, service, validate
from llamakit_proxy.identity import Identity
from llamakit_proxy.server import Server
from llamakit_proxy.settings import Settings, load


def _nothing(*_: object) -> None:
    """In place of what is left out."""


def _keys() -> None:
    """The first key that was good is taken for every other one."""
    check = auth.KeyStore.authenticate
    known: list[Identity] = []

    async def authenticate(store: auth.KeyStore, authorization: bytes | None) -> Identity:
        if not known:
            known.append(await check(store, authorization))
        return known[0]

    patch.object(auth.KeyStore, "authenticate", authenticate).start()


def _validation() -> None:
    """The first request that was good is sent for every other one."""
    check = validate.chat
    known: list[Any] = []

    def chat(*arguments: Any) -> Any:
        if not known:
            known.append(check(*arguments))
        return known[0]

    patch.object(validate, "chat", chat).start()


VARIANTS: dict[str, Callable[[], object]] = {
    "nothing": _nothing,
    "keys": _keys,
    "validation": _validation,
    "metrics": patch.object(metrics.Metrics, "observe", _nothing).start,
    "log line": patch.object(service, "write_request", _nothing).start,
    "log row": patch.object(request_log.RequestLog, "record", _nothing).start,
}
"""What each of them leaves out."""


async def _serve(settings: Settings) -> None:
    server = Server(settings)
    listener = socket.create_server((settings.proxy_host, settings.proxy_port), backlog=4096)
    await server.prepare(replacing=True)
    await server.serve_on([listener])


if __name__ == "__main__":
    VARIANTS[sys.argv[1]]()
    logging.configure()
    uvloop.run(_serve(load()))
