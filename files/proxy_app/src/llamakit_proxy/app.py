"""The ASGI application: which path this is, whose key, how often - then the path's endpoint.

Relayed paths are handled here as plain ASGI; what is left over goes to a small FastAPI
application. Everything is decided on ``scope["path"]`` alone, never on Host or the raw target.
"""

import asyncio
from dataclasses import dataclass

from . import client_address, endpoints, load_view, pages, scopes
from .auth import RefusedKeyError
from .body import ClientGoneError, Receive
from .errors import ApiError
from .exchange import ABORT, Cause, Exchange, Scope, Send
from .logging import LOGGER
from .queue import stopping
from .service import Service

PUBLIC = frozenset({"/healthz", "/readyz"})
"""The only paths that anyone may ask for without a key."""
METRICS = "/metrics"
"""Without a key only for a client on this machine; others need one with the scope metrics."""
MODEL_PREFIX = "/v1/models/"
UNKNOWN = "(unknown)"


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
        Target("/admin/load", "GET", load_view.show),
    )
}
_ONE_MODEL = Target("/v1/models/{model}", "GET", endpoints.get_model)


class Application:
    """What uvicorn serves."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._pages = pages.create(service)
        self._targets = _TARGETS | {
            path: Target(path, "GET", self._page)
            for route in self._pages.routes
            if (path := getattr(route, "path", None))
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        client = client_address.find(scope, self.service.settings.trusted_proxies)
        if path in PUBLIC or (path == METRICS and client.here):
            await self._public(scope, receive, send)
            return
        target = self._targets.get(path)
        if target is None and path.startswith(MODEL_PREFIX) and len(path) > len(MODEL_PREFIX):
            target = _ONE_MODEL
        exchange = Exchange(
            scope,
            receive,
            send,
            target.template if target else UNKNOWN,
            self.service.settings.write_timeout_seconds,
            client=client.address,
        )
        self.service.metrics.in_flight += 1
        self.service.exchanges.add(exchange)
        try:
            await self._stages(exchange, target)
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
            self.service.exchanges.discard(exchange)
            exchange.close()
            self.service.account(exchange)

    async def _page(self, _: Service, exchange: Exchange) -> None:
        """A page that the key is good for."""
        await self._pages(exchange.scope, exchange.receive, exchange.recorded_send)

    async def _public(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A page that needs no key. Who asks and does not read holds no connection for ever."""
        try:
            async with asyncio.timeout(self.service.settings.write_timeout_seconds):
                await self._pages(scope, receive, send)
        except TimeoutError:
            scope["extensions"][ABORT]["call"]()

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
        await service.limits.enter(exchange, identity)
        scopes.check(identity, exchange.scope["path"])
        if target is None:
            raise _nothing_at(exchange.scope["path"])
        if exchange.method == "OPTIONS":
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


def _nothing_at(path: str) -> ApiError:
    text = "There is nothing at this path."
    if path.startswith("/v1/responses/"):
        text += " Responses are not stored: keep the output, and send it again as input."
    return ApiError(404, "not_found", text, type="invalid_request_error")


def _internal() -> ApiError:
    """500 without a word of what went wrong: that is in the log."""
    return ApiError(500, "internal_error", "The server failed on this request.")
