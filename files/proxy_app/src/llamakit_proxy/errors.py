"""The one error a stage raises, and the OpenAI error object it becomes."""

import re
from collections.abc import Mapping
from typing import Any

from . import wire
from .circuit import Failure

# A key, ours or another service's, that a client put in the wrong place: clients log errors.
_KEY = re.compile(r"sk-[\w-]{6,}")

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A request that is answered with an OpenAI error object.

    ``message`` is shown to the client as it is: it never holds a key, a prompt, a path of this
    machine or a backend's own words; what looks like a key in it is left out. ``type`` follows from
    ``status`` unless it is given.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        type: str | None = None,  # noqa: A002  OpenAI calls this field "type"
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = _without_keys(message)
        self.param = None if param is None else _without_keys(param)
        self.type = type or _TYPES.get(
            status, "server_error" if status >= 500 else "invalid_request_error"
        )
        self.headers: dict[str, str] = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON document: ``{"error": {"message", "type", "param", "code"}}``."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def encode(self) -> bytes:
        """The JSON document as bytes, without a line break inside: it also fits one SSE line."""
        return wire.encode_leniently(self.body())


def _without_keys(text: str) -> str:
    return _KEY.sub("sk-(hidden)", text) if "sk-" in text else text


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: the client sent something it must change before it tries again."""
    return ApiError(400, code, message, param=param)


def unavailable(code: str, message: str, *, retry_after: int) -> ApiError:
    """503 with Retry-After in whole seconds."""
    return ApiError(503, code, message, headers={"Retry-After": str(max(1, retry_after))})


class BackendError(ApiError):
    """A backend failed in a way that says something about the backend."""

    def __init__(
        self,
        failure: Failure,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message, headers=headers)
        self.failure = failure


def backend_away(*, retry_after: int = 5) -> BackendError:
    """503: there was nobody to ask."""
    return BackendError(
        Failure.UNREACHABLE,
        503,
        "backend_unavailable",
        "The model is not running at the moment. Try again shortly.",
        {"Retry-After": str(max(1, retry_after))},
    )
