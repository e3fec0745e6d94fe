"""What is done for each OpenAI path, stage after stage, once the key and the limit are checked."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from . import body as request_body
from . import responses, validate, wire
from .affinity import conversation
from .attempts import complete
from .embeddings import Embedder
from .errors import ApiError, invalid
from .exchange import Exchange
from .fan_out import FanOut
from .limits import prompt_estimate, reservation
from .queue import AdmissionQueue, Place
from .relay import Relay
from .routes import Kind, Route
from .service import Service
from .validate.prepared import Prepared

Endpoint = Callable[[Service, Exchange], Awaitable[None]]

QUEUE_TIMEOUT = b"x-queue-timeout"
"""Header with the seconds a client is willing to wait for its turn."""


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


async def response(service: Service, exchange: Exchange) -> None:
    """POST /v1/responses."""
    document = await _read(service, exchange)
    route = _route(service, exchange, document, "chat")
    prepared = responses.prepare(document, route)
    with responses.own_words():
        await _generate(service, exchange, route, prepared)


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
    embedder = Embedder(exchange, prepared.inputs, service.settings, route)
    most = route.n_ctx * len(prepared.inputs)
    await service.limits.reserve(exchange, min(prompt_estimate(exchange.request_bytes), most), 0)
    _measure_overhead(exchange)
    exchange.watch_client()
    with _enter(service, exchange, service.backends.queue(route)) as place:
        await complete(exchange, service.backends, place, embedder)
    exchange.enter(None)
    exchange.prompt_tokens, exchange.completion_tokens = embedder.tokens, 0
    await exchange.respond(200, wire.encode(embedder.document(base64=prepared.base64)))


async def _generate(service: Service, exchange: Exchange, route: Route, prepared: Prepared) -> None:
    exchange.stream = prepared.stream
    bodies = [request_body.dump(document) for document in (prepared.document, *prepared.others)]
    await service.limits.reserve(exchange, *_tokens(route, prepared, bodies))
    _measure_overhead(exchange)
    exchange.watch_client()

    # The same one for all generations of the request, whatever becomes of the route.
    queue = service.backends.queue(route)

    async def ask(relay: Relay) -> None:
        """One generation: a place in the queue, then all that a backend says."""
        with _enter(service, exchange, queue, relay.request) as place:
            await complete(exchange, service.backends, place, relay)

    if prepared.others:
        places = sum(backend.capacity for backend in route.backends)
        await FanOut(exchange, prepared, bodies, service.settings).run(ask, at_a_time=places)
        return
    relay = Relay(exchange, prepared, bodies[0], service.settings)
    try:
        await ask(relay)
        exchange.enter(None)
        await relay.deliver()
    finally:
        relay.close()


def _tokens(route: Route, prepared: Prepared, bodies: list[bytes]) -> tuple[int, int]:
    """How many tokens the prompts and the answers may take: never more than the context holds."""
    choices = len(bodies) // prepared.prompts
    most: int = prepared.document["max_tokens"]
    # A prompt counts once, however many choices it has.
    parts = [reservation(len(body), choices, most, route.n_ctx) for body in bodies[::choices]]
    return sum(prompt for prompt, _ in parts), sum(answers for _, answers in parts)


def _enter(
    service: Service,
    exchange: Exchange,
    queue: AdmissionQueue,
    document: dict[str, Any] | None = None,
) -> Place:
    """A place in the queue. ``document`` is the prompt to go back to, where there is a choice."""
    identity = exchange.identity
    if identity is None:
        raise RuntimeError("a request without an identity got past authentication")
    talk = None
    if document is not None and queue.has_replicas:
        talk = conversation(identity.user_id, document)
    return queue.enter(
        identity.user_id,
        weight=identity.weight,
        batch=identity.batch,
        conversation=talk,
        wait_seconds=_patience(exchange, service.settings.queue_timeout_seconds),
    )


def _patience(exchange: Exchange, most: float) -> float:
    """For how many seconds the request may wait: ``most``, or less if its client says so."""
    text = exchange.header(QUEUE_TIMEOUT)
    if text is None:
        return most
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise invalid("The header X-Queue-Timeout must be a number of seconds, 0 or more.")
    return min(seconds, most)


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


def _measure_overhead(exchange: Exchange) -> None:
    elapsed = time.perf_counter() - exchange.started_at
    exchange.overhead_seconds = elapsed - exchange.reading_seconds
