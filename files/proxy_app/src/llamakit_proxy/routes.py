"""Which models there are, what they are called, and which backends answer for them."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from .errors import ApiError
from .settings import SettingsError
from .tool_calls import DIALECTS

Kind = Literal["chat", "embedding"]
MAX_NAME = 256
NO_TOOLS = "none"


class RoutesError(SettingsError):
    """The routes file can't be used. The text says where, what was found and expected."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One model server. ``capacity`` is how many requests it works on at a time."""

    url: str
    host: str
    port: int
    capacity: int
    engine: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Route:
    """One model as clients see it."""

    id: str
    aliases: tuple[str, ...]
    created: int
    owned_by: str
    kind: Kind
    n_ctx: int
    """Tokens the model can hold: prompt and answer together."""
    max_tokens: int
    """Most tokens one answer may have."""
    logprobs: bool
    """Whether the backend was started so that it can report log probabilities."""
    backends: tuple[Backend, ...]
    tools: str | None = None
    """The dialect in which the model writes calls of tools; None when it knows no tools."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that clients and allow-lists may call it; no other route has any of them."""
        return (self.id, *self.aliases)

    def card(self) -> dict[str, Any]:
        """The model as ``/v1/models`` shows it."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": self.owned_by,
        }


class RoutingTable:
    """Names to routes. Names are compared exactly, case included."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._by_name: dict[str, Route] = {}
        for route in self.routes:
            for name in route.names:
                other = self._by_name.setdefault(name, route)
                if other is not route:
                    raise RoutesError(f"{name!r} names both {other.id!r} and {route.id!r}")

    def find(self, name: str) -> Route:
        """The route called ``name`` (an id or an alias); ApiError 404 when there is none."""
        route = self._by_name.get(name)
        if route is None:
            raise ApiError(
                404,
                "model_not_found",
                f"The model {_shown(name)} does not exist here. GET /v1/models lists what does.",
                param="model",
                type="invalid_request_error",
            )
        return route


def _shown(name: str) -> str:
    text = name if len(name) <= 100 else name[:100] + "…"
    return json.dumps(text, ensure_ascii=True)


def parse(
    document: object, *, secret: Callable[[str], str], default_max_tokens: int
) -> RoutingTable:
    """The table in a proxy_routes document. ``secret`` turns a secret's name into its value."""
    models = _get(document, "models", list, "the document")
    routes = []
    for index, model in enumerate(models):
        where = f"models[{index}]"
        backends = [
            _backend(entry, f"{where}.backends[{number}]", secret)
            for number, entry in enumerate(_get(model, "backends", list, where))
        ]
        if not backends:
            raise RoutesError(f"{where}.backends is empty; expected at least one backend")
        kind = _get(model, "kind", str, where)
        if kind not in ("chat", "embedding"):
            raise RoutesError(f"{where}.kind is {kind!r}; expected 'chat' or 'embedding'")
        tools = _get(model, "tools", str, where, NO_TOOLS)
        if tools not in (*DIALECTS, NO_TOOLS):
            expected = ", ".join([*DIALECTS, NO_TOOLS])
            raise RoutesError(f"{where}.tools is {tools!r}; expected one of {expected}")
        routes.append(
            Route(
                id=_name(_get(model, "id", str, where), f"{where}.id"),
                aliases=tuple(
                    _name(alias, f"{where}.aliases")
                    for alias in _get(model, "aliases", list, where, [])
                ),
                created=_get(model, "created", int, where, 0),
                owned_by=_get(model, "owned_by", str, where, "llamakit"),
                kind="chat" if kind == "chat" else "embedding",
                n_ctx=_positive(_get(model, "n_ctx", int, where), f"{where}.n_ctx"),
                max_tokens=_positive(
                    _get(model, "max_tokens", int, where, default_max_tokens),
                    f"{where}.max_tokens",
                ),
                logprobs=_get(model, "logprobs", bool, where, False),
                backends=tuple(backends),
                tools=None if tools == NO_TOOLS else tools,
            )
        )
    return RoutingTable(routes)


def load(path: Path, *, secret: Callable[[str], str], default_max_tokens: int) -> RoutingTable:
    """The table in the file at ``path``; RoutesError says what is wrong with it."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise RoutesError(
            f"can't read the routes {path}: {error.strerror}; "
            "run `./console.sh start` to have them written"
        ) from error
    except ValueError as error:
        raise RoutesError(f"the routes {path} are not JSON: {error}") from error
    try:
        return parse(document, secret=secret, default_max_tokens=default_max_tokens)
    except (RoutesError, SettingsError) as error:
        raise RoutesError(f"the routes {path} can't be used: {error}") from error


class RouteFile:
    """The table now in force, read again whenever its file changes."""

    def __init__(
        self, path: Path, *, secret: Callable[[str], str], default_max_tokens: int
    ) -> None:
        self.path = path
        self._secret = secret
        self._default_max_tokens = default_max_tokens
        self._stamp = self._look()
        self.table = self._load()
        self.loaded_at = time.time()
        self.error: str | None = None
        """Why the file as it is now was not taken; None when the table is that file's."""

    def poll(self) -> bool:
        """Look at the file; True when there is a new table. A file that is wrong changes nothing
        but ``error``."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.table = self._load()
        except RoutesError as error:
            self.error = str(error)
            return False
        self.loaded_at = time.time()
        self.error = None
        return True

    def _load(self) -> RoutingTable:
        return load(self.path, secret=self._secret, default_max_tokens=self._default_max_tokens)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self.path)  # noqa: PTH116  twice a second; Path.stat adds nothing
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


_REQUIRED: Any = object()


def _get(holder: object, key: str, kind: type, where: str, default: Any = _REQUIRED) -> Any:
    if not isinstance(holder, dict):
        raise RoutesError(f"{where} is {_kind(holder)}; expected an object")
    value = holder.get(key, default)
    if value is _REQUIRED:
        raise RoutesError(f"{where} has no {key!r}")
    if value is default:
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RoutesError(f"{where}.{key} is {_kind(value)}; expected {kind.__name__}")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise RoutesError(f"{where} is {value!r}; expected 1..{MAX_NAME} printable characters")
    return value


def _positive(value: int, where: str) -> int:
    if value < 1:
        raise RoutesError(f"{where} is {value}; expected 1 or more")
    return value


def _backend(entry: object, where: str, secret: Callable[[str], str]) -> Backend:
    url = _get(entry, "url", str, where)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        # A label that is empty or too long fails whoever looks the name up.
        (host or "").encode("idna")
    except ValueError:
        host = port = None
    if not host or parts.scheme != "http" or parts.path.strip("/") or parts.query:
        raise RoutesError(f"{where}.url is {url!r}; expected http://HOST:PORT")
    port = port or 80
    name = _get(entry, "api_key_secret", str, where, None)
    return Backend(
        url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
        host=host,
        port=port,
        capacity=_positive(_get(entry, "capacity", int, where, 1), f"{where}.capacity"),
        engine=_get(entry, "engine", str, where, "llama_cpp_python"),
        api_key=None if name is None else secret(name),
    )
