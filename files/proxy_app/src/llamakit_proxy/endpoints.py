"""What is done for each OpenAI path, stage after stage, once the key and the limit are checked."""

import time
from array import array
from base64 import b64encode
from collections.abc import Awaitable, Callable
from re import compile as regex
from typing import Any

from . import body as request_body
from . import validate, wire
from .chunks import too_long
from .errors import ApiError, backend_away, invalid
from .exchange import Cause, Exchange
from .relay import Relay, backend_broke, refused
from .routes import Kind, Route
from .service import Service
from .upstream import BrokenError, Connection, UnreachableError, Upstream
from .validate.embedding import PATH as EMBEDDINGS_PATH
from .validate.prepared import Prepared
from .watchdog import Watchdog

Endpoint = Callable[[Service, Exchange], Awaitable[None]]

INPUTS_AT_A_TIME = 64
"""One request to the backend embeds this many texts: answers stay small, and others' wait short."""
MAX_EMBEDDING_ANSWER = 64 << 20
_OVERRUN = regex(rb"Requested tokens \((\d+)\) exceed batch size of (\d+)")


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
    parts = [
        request_body.dump({"model": route.id, "input": prepared.inputs[i : i + INPUTS_AT_A_TIME]})
        for i in range(0, len(prepared.inputs), INPUTS_AT_A_TIME)
    ]
    _measure_overhead(exchange)
    exchange.watch_client()
    vectors: list[Any] = []
    tokens = 0
    with service.backends.queue(route).enter(_user(exchange)) as place:
        waited_since = time.perf_counter()
        if place.ready is not None:
            await place.ready
        exchange.queue_seconds = time.perf_counter() - waited_since
        upstream = service.backends.upstream(place.backend)
        for part in parts:
            answer = await _ask_embeddings(service, exchange, upstream, part)
            vectors.extend(item["embedding"] for item in answer["data"])
            tokens += int(answer["usage"]["prompt_tokens"])
    exchange.prompt_tokens, exchange.completion_tokens = tokens, 0
    answer = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if prepared.base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": route.id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    await exchange.respond(200, wire.encode(answer))


async def _generate(service: Service, exchange: Exchange, route: Route, prepared: Prepared) -> None:
    exchange.stream = prepared.stream
    body = request_body.dump(prepared.document)
    _measure_overhead(exchange)
    exchange.watch_client()
    relay = Relay(exchange, prepared, service.settings)
    try:
        with service.backends.queue(route).enter(_user(exchange)) as place:
            waited_since = time.perf_counter()
            try:
                await relay.wait(place)
            finally:
                exchange.queue_seconds = time.perf_counter() - waited_since
            await relay.run(service.backends.upstream(place.backend), body)
        await relay.deliver()
    finally:
        relay.close()


async def _read(service: Service, exchange: Exchange) -> dict[str, Any]:
    limit = service.settings.max_body_bytes
    reading_since = time.perf_counter()
    raw = await request_body.read(exchange.scope["headers"], exchange.receive, limit)
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


async def _ask_embeddings(
    service: Service, exchange: Exchange, upstream: Upstream, body: bytes
) -> dict[str, Any]:
    settings = service.settings
    # The answer comes in one piece at the end, so there is no progress to watch in between.
    stalled = Watchdog(
        exchange.loop,
        max(settings.stall_timeout_seconds, settings.queue_timeout_seconds),
        lambda: exchange.interrupt(Cause.BACKEND_STALLED),
    )
    stalled.start()
    connection: Connection | None = None
    try:
        connection = await upstream.post(EMBEDDINGS_PATH, body, limit=MAX_EMBEDDING_ANSWER)
        pieces = []
        while not connection.complete:
            pieces.append(connection.take())
            await connection.wait()
        pieces.append(connection.take())
        raw = b"".join(pieces)
        if connection.status != 200:
            overrun = _OVERRUN.search(raw)
            if overrun is not None:
                raise too_long(int(overrun[1]), int(overrun[2]))
            raise await refused(connection)
        answer = wire.decode(raw)
        if not isinstance(answer.get("data"), list):
            raise backend_broke()
        return dict(answer)
    except UnreachableError:
        raise backend_away() from None
    except (BrokenError, ValueError):
        raise backend_broke() from None
    finally:
        stalled.stop()
        if connection is not None:
            upstream.release(connection)


def _base64(vector: Any) -> str:
    """Little-endian 32-bit floats, as OpenAI packs them."""
    packed = array("f", vector)
    if packed.itemsize != 4:
        raise RuntimeError("this machine's C float is not 32 bits")
    return b64encode(packed.tobytes()).decode()
