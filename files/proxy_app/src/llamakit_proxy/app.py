"""The ASGI application: which path this is, whose key, how often - then the path's endpoint.

Relayed paths are handled here as plain ASGI; what is left over goes to a small FastAPI
application. Everything is decided on ``scope["path"]`` alone, never on Host or the raw target.
"""

import asyncio
import time
from dataclasses import dataclass

from . import endpoints, pages
from .auth import RefusedKeyError
from .body import ClientGoneError, Receive
from .errors import ApiError
from .exchange import Cause, Exchange, Scope, Send
from .identity import Identity
from .logging import LOGGER
from .queue import stopping
from .service import Service

PUBLIC = frozenset({"/healthz", "/readyz"})
"""The only paths that anyone may ask for without a key."""
METRICS = "/metrics"
"""Without a key only for a client on this machine that no proxy speaks for."""
MODEL_PREFIX = "/v1/models/"
UNKNOWN = "(unknown)"

_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})
_LOOPBACK = ("127.", "::1", "::ffff:127.")


@dataclass(frozen=True, slots=True)
class Target:
    """A path that is answered here."""

    template: str
    method: str
    endpoint: endpoints.Endpoint

    @property
    def allow(self) -> str:
        """The methods, for an Allow header."""
        return "GET, HEAD, OPTIONS" if self.method == "GET" else f"{self.method}, OPTIONS"


_TARGETS = {
    target.template: target
    for target in (
        Target("/v1/chat/completions", "POST", endpoints.chat),
        Target("/v1/responses", "POST", endpoints.response),
        Target("/v1/completions", "POST", endpoints.completion),
        Target("/v1/embeddings", "POST", endpoints.embedding),
        Target("/v1/models", "GET", endpoints.list_models),
    )
}
_ONE_MODEL = Target("/v1/models/{model}", "GET", endpoints.get_model)


class Application:
    """What uvicorn serves."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._pages = pages.create(service)
        self._page_paths = frozenset(
            path for route in self._pages.routes if (path := getattr(route, "path", None))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in PUBLIC or (path == METRICS and _from_this_machine(scope)):
            await self._pages(scope, receive, send)
            return
        target = _TARGETS.get(path)
        if target is None and path.startswith(MODEL_PREFIX) and len(path) > len(MODEL_PREFIX):
            target = _ONE_MODEL
        page = path in self._page_paths
        template = target.template if target else path if page else UNKNOWN
        exchange = Exchange(
            scope, receive, send, template, self.service.settings.write_timeout_seconds
        )
        self.service.metrics.in_flight += 1
        try:
            await self._stages(exchange, target)
            if page:
                await self._pages(scope, receive, exchange.recorded_send)
        except ApiError as error:
            await self._fail(exchange, error)
        except ClientGoneError:
            exchange.gave_up(Cause.CLIENT_GONE)
        except asyncio.CancelledError:
            await self._cut_short(exchange)
        except Exception:
            LOGGER.exception("a request failed (%s)", exchange.request_id)
            await self._fail(exchange, _internal())
        finally:
            self.service.metrics.in_flight -= 1
            exchange.close()
            self.service.account(exchange)

    async def _stages(self, exchange: Exchange, target: Target | None) -> None:
        """Whose key, how often, which method; then the endpoint."""
        service = self.service
        try:
            identity = await service.keys.authenticate(exchange.header(b"authorization"))
        except RefusedKeyError as refusal:
            exchange.identity = refusal.identity
            raise
        exchange.identity = identity
        if service.stopping:
            raise stopping()
        self._check_limit(exchange, identity)
        if target is None:
            if exchange.path == UNKNOWN:
                raise _nothing_at(exchange.scope["path"])
        elif exchange.method == "OPTIONS":
            await exchange.respond(200, b"", [(b"allow", target.allow.encode())])
        elif exchange.method == target.method or (
            exchange.method == "HEAD" and target.method == "GET"
        ):
            await target.endpoint(service, exchange)
        else:
            raise ApiError(
                405,
                "method_not_allowed",
                f"This path takes {target.method}.",
                type="invalid_request_error",
                headers={"Allow": target.allow},
            )

    def _check_limit(self, exchange: Exchange, identity: Identity) -> None:
        settings = self.service.settings
        limit, window = identity.rate_limit, identity.rate_window_seconds
        window = settings.rate_window_seconds if window is None else window
        allowance = self.service.limiter.ask(
            identity.user_id,
            settings.rate_limit if limit is None else limit,
            window,
            time.monotonic(),
        )
        exchange.headers.extend(allowance.headers())
        if not allowance.allowed:
            raise allowance.refusal(window)

    async def _cut_short(self, exchange: Exchange) -> None:
        """The task was cancelled: by ``Exchange.interrupt``, which says why, or by the server
        because the time for stopping is over."""
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        cause = exchange.cause or Cause.STOPPING
        if cause is Cause.CLIENT_GONE:
            exchange.gave_up(cause)
        elif cause is Cause.CLIENT_SLOW:
            exchange.gave_up(cause)
            exchange.abort()
        elif cause is Cause.BACKEND_STALLED:
            error = ApiError(504, cause.value, "The model server gave no token for too long.")
            await self._fail(exchange, error)
        else:
            await self._fail(exchange, stopping())

    async def _fail(self, exchange: Exchange, error: ApiError) -> None:
        """Answer with an error, unless the client does not even take that."""
        exchange.close()
        if error.status == 401:
            error.headers.setdefault("WWW-Authenticate", 'Bearer realm="llamakit"')
        try:
            async with asyncio.timeout(self.service.settings.write_timeout_seconds):
                await exchange.fail(error)
        except (TimeoutError, asyncio.CancelledError):
            exchange.abort()


def _from_this_machine(scope: Scope) -> bool:
    """Whether the client itself runs here. Behind a proxy on this machine everyone seems to, but
    proxies say for whom they ask."""
    client = scope.get("client")
    if not client or not client[0].startswith(_LOOPBACK):
        return False
    return not any(name in _FORWARDED for name, _ in scope["headers"])


def _nothing_at(path: str) -> ApiError:
    text = "There is nothing at this path."
    if path.startswith("/v1/responses/"):
        text += " Responses are not stored: keep the output, and send it again as input."
    return ApiError(404, "not_found", text, type="invalid_request_error")


def _internal() -> ApiError:
    """500 without a word of what went wrong: that is in the log."""
    return ApiError(500, "internal_error", "The server failed on this request.")
