"""The routes that are not relayed: health, metrics, and the description of these."""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from . import __version__
from .errors import ApiError
from .service import Service

Page = TypeVar("Page", bound=Callable[..., Any])


def create(service: Service) -> FastAPI:
    """The FastAPI application. Who may ask for what is decided before it is called."""
    pages = FastAPI(
        title="llamakit proxy",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )

    @pages.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> JSONResponse:
        known = ApiError(
            error.status_code, "bad_request", error.detail, type="invalid_request_error"
        )
        return JSONResponse(known.body(), error.status_code, error.headers)

    def page(path: str, summary: str) -> Callable[[Page], Page]:
        def add(answer: Page) -> Page:
            # A route with two methods has two descriptions of one id, of which FastAPI warns: the
            # second route here is never asked, only described.
            pages.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)
            pages.add_api_route(path, answer, methods=["GET"], summary=summary)
            return answer

        return add

    @page("/healthz", "The process is alive")
    async def healthz() -> dict[str, str | None]:
        return {"status": "alive", "release": service.settings.release}

    @page("/readyz", "At least one model can be used")
    async def readyz() -> JSONResponse:
        ready, details = await service.health.ready()
        return JSONResponse(details, status_code=200 if ready else 503)

    @page("/metrics", "Prometheus metrics")
    async def metrics() -> Response:
        await service.health.look()
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return pages
