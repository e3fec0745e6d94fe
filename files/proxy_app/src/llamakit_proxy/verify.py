"""Proves a deployment: a token from each model with a real key, and a refusal without one."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from . import users
from .commands import guarded
from .database import Role, connect
from .settings import Settings, load
from .tls import CERTIFICATE, client_context

TIMEOUT_SECONDS = 120
KEY_LIFETIME = timedelta(hours=1)
"""More than all models of a host take; the key is removed when the last one has answered."""
TURN_SECONDS = 600
"""For so long others may be at their own proof."""
USERNAME = "llamakit-verify"


class VerifyError(Exception):
    """The deployment does not do what it should. The text says what, and where to look."""


def add_commands(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds ``verify`` to the command line."""
    parser = sub.add_parser(
        "verify",
        help="ask each model for a token through the proxy, and expect a 401 without a key",
    )
    parser.add_argument(
        "--unless",
        nargs=2,
        metavar=("FILE", "VALUE"),
        help="ask the models only if FILE does not hold VALUE; it does afterwards",
    )
    parser.set_defaults(run=run)


@guarded
def run(args: argparse.Namespace) -> int:
    """Exit 0 when everything is as it should be, 1 when not."""
    settings = load()
    stamp = Path(args.unless[0]) if args.unless else None
    proven = stamp is not None and stamp.exists() and stamp.read_text() == args.unless[1]
    try:
        with _client(settings) as client:
            for line in verify(client, settings, models=not proven):
                print(line, flush=True)
    except VerifyError as error:
        print(f"error: {error}\nSee: ./console.sh status, ./console.sh logs proxy", file=sys.stderr)
        return 1
    except httpx.ConnectError as refusal:
        if "CERTIFICATE_VERIFY_FAILED" in str(refusal):
            print(
                f"error: what answers at {base_url(settings)} shows another certificate than "
                f"{settings.secret_file(CERTIFICATE)}, or an expired one; restart the proxy",
                file=sys.stderr,
            )
            return 1
        print(
            f"error: nothing answers at {base_url(settings)}; expected the proxy\n"
            "See: ./console.sh status, and start it with: ./console.sh start",
            file=sys.stderr,
        )
        return 1
    except httpx.HTTPError as error:
        print(
            f"error: the proxy at {base_url(settings)} broke off ({type(error).__name__})\n"
            "See: ./console.sh logs proxy",
            file=sys.stderr,
        )
        return 1
    if stamp is not None:
        stamp.write_text(args.unless[1])
    return 0


def _client(settings: Settings) -> httpx.Client:
    # Without TLS there is nothing to verify; the name of the setting is httpx's.
    trusted = client_context(settings) or False
    return httpx.Client(
        base_url=base_url(settings), timeout=TIMEOUT_SECONDS, trust_env=False, verify=trusted
    )


def base_url(settings: Settings) -> str:
    """Where this machine reaches the proxy."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not an address to bind
    host = everywhere.get(settings.proxy_host, settings.proxy_host)
    scheme = "https" if settings.tls else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.proxy_port}"


def verify(client: httpx.Client, settings: Settings, *, models: bool) -> Iterator[str]:
    """A line for each thing proven; VerifyError at the first that is not as it should be."""
    _expect(client.get("/v1/models"), 401, "a request without a key")
    yield "ok  a request without a key is refused (401)"
    if not models:
        return
    with _temporary_key(settings) as key:
        client.headers["Authorization"] = f"Bearer {key}"
        listed = _expect(client.get("/v1/models"), 200, "the list of models")["data"]
        if not listed:
            raise VerifyError("the proxy lists no model; expected at least one")
        table = json.loads(settings.routes_path.read_text())["models"]
        kinds = {model["id"]: model["kind"] for model in table}
        for model in listed:
            yield _token(client, model["id"], kinds[model["id"]])


def _token(client: httpx.Client, model: str, kind: str) -> str:
    if kind == "embedding":
        answer = client.post("/v1/embeddings", json={"model": model, "input": "one"})
        size = len(_expect(answer, 200, f"an embedding from {model}")["data"][0]["embedding"])
        return f"ok  {model} gives an embedding of {size} numbers"
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Say hi."}]}
    answer = client.post("/v1/chat/completions", json=body)
    usage = _expect(answer, 200, f"a token from {model}")["usage"]
    if usage["completion_tokens"] != 1:
        raise VerifyError(f"{model} gave {usage['completion_tokens']} tokens; expected 1")
    return f"ok  {model} answers ({answer.elapsed.total_seconds():.2f} s to the first token)"


def _expect(answer: httpx.Response, status: int, what: str) -> Any:
    if answer.status_code != status:
        raise VerifyError(
            f"{what} got HTTP {answer.status_code} from {answer.url}; expected {status}"
        )
    return answer.json()


@contextmanager
def _temporary_key(settings: Settings) -> Iterator[str]:
    """The key of a user who exists only meanwhile; an interrupted proof leaves one that expires."""
    with connect(settings, Role.ADMIN, statement_timeout_seconds=TURN_SECONDS) as connection:
        # Hosts that share a database prove themselves at the same time.
        connection.execute("SET lock_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(hashtext('llamakit.verify'))")
        if any(user.username == USERNAME for user in users.list_users(connection)):
            users.delete(connection, USERNAME)
        key = users.create(connection, USERNAME, lifetime=KEY_LIFETIME)
        try:
            users.set_limits(connection, USERNAME, users.NO_LIMITS)
            yield key.text
        finally:
            users.delete(connection, USERNAME)
