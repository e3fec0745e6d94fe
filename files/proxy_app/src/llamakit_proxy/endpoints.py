"""What is done for each OpenAI path, stage after stage, once the key and the limit are checked."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import body as request_body
from . import validate, wire
from .embeddings import Embedder
from .errors import ApiError, invalid
from .exchange import Exchange
from .relay import Relay
from .routes import Kind, Route
from .service import Service
from .validate.prepared import Prepared

Endpoint = Callable[[Service, Exchange], Awaitable[None]]


async def list_models(service: Service, exchange: Exchange) -> None:
    """GET /v1/models: the models this key may use."""
    cards = [route.card() for route in service.table.routes if _allowed(exchange, route)]
    await exchange.respond_json(200, {"object": "list", "data": cards})


async def get_model(service: Service, exchange: Exchange) -> None:
    """GET /v1/models/{id}: one model, by id or alias."""
    name = exchange.scope["path"].removeprefix("/v1/models/")
    route = _check_allowed(exchange, service.table.find(name))
    exchange.model = route.id
    await exchange.respond_json(200, route.card())


async def chat(service: Service, exchange: Exchange) -> None:
    """POST /v1/chat/completions."""
    document = await _read(service, exchange)
    route = _route(service, exchange, document, "chat")
    await _generate(service, exchange, route, validate.chat(document, route))


async def completion(service: Service, exchange: Exchange) -> None:
    """POST /v1/completions."""
    document = await _read(service, exchange)
    route = _route(service, exchange, document, "chat")
    await _generate(service, exchange, route, validate.completion(document, route))


async def embedding(service: Service, exchange: Exchange) -> None:
    """POST /v1/embeddings."""
    document = await _read(service, exchange)
    route = _route(service, exchange, document, "embedding")
    prepared = validate.embedding(document)
    embedder = Embedder(exchange, service.settings, route)
    _measure_overhead(exchange)
    exchange.watch_client()
    with service.backends.queue(route).enter(_user(exchange)) as place:
        with _timed(exchange):
            if place.ready is not None:
                await place.ready
        await embedder.run(service.backends.upstream(place.backend), prepared.inputs)
    exchange.prompt_tokens, exchange.completion_tokens = embedder.tokens, 0
    await exchange.respond(200, wire.encode(embedder.document(base64=prepared.base64)))


async def _generate(service: Service, exchange: Exchange, route: Route, prepared: Prepared) -> None:
    exchange.stream = prepared.stream
    body = request_body.dump(prepared.document)
    _measure_overhead(exchange)
    exchange.watch_client()
    relay = Relay(exchange, prepared, service.settings)
    try:
        with service.backends.queue(route).enter(_user(exchange)) as place:
            with _timed(exchange):
                await relay.wait(place)
            await relay.run(service.backends.upstream(place.backend), body)
        await relay.deliver()
    finally:
        relay.close()


@contextmanager
def _timed(exchange: Exchange) -> Iterator[None]:
    """The block is the wait in the queue."""
    since = time.perf_counter()
    try:
        yield
    finally:
        exchange.queue_seconds = time.perf_counter() - since


async def _read(service: Service, exchange: Exchange) -> dict[str, Any]:
    limit = service.settings.max_body_bytes
    reading_since = time.perf_counter()
    raw = await request_body.read(
        exchange.scope["headers"],
        exchange.receive,
        limit,
        has_come=exchange.connection.body_has_come,
    )
    exchange.reading_seconds = time.perf_counter() - reading_since
    exchange.request_bytes = len(raw)
    return request_body.parse(raw)


def _route(service: Service, exchange: Exchange, document: dict[str, Any], kind: Kind) -> Route:
    name = document.get("model")
    if not isinstance(name, str) or not name:
        raise invalid("you must provide a model parameter", param="model", code="missing_parameter")
    route = service.table.find(name)
    exchange.model = route.id
    _check_allowed(exchange, route)
    if route.kind != kind:
        use = "/v1/embeddings" if route.kind == "embedding" else "/v1/chat/completions"
        raise invalid(
            f"The model {route.id} is for {use}, not for this path.",
            param="model",
            code="model_not_supported",
        )
    return route


def _allowed(exchange: Exchange, route: Route) -> bool:
    allowed = None if exchange.identity is None else exchange.identity.allowed_models
    return allowed is None or not allowed.isdisjoint(route.names)


def _check_allowed(exchange: Exchange, route: Route) -> Route:
    if _allowed(exchange, route):
        return route
    raise ApiError(
        403,
        "model_not_allowed",
        f"Your key may not use the model {route.id}. GET /v1/models lists what it may use.",
        param="model",
    )


def _user(exchange: Exchange) -> int:
    if exchange.identity is None:
        raise RuntimeError("a request without an identity got past authentication")
    return exchange.identity.user_id


def _measure_overhead(exchange: Exchange) -> None:
    elapsed = time.perf_counter() - exchange.started_at
    exchange.overhead_seconds = elapsed - exchange.reading_seconds
