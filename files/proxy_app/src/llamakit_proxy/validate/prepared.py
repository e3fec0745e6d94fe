"""What validation makes of a request."""

from dataclasses import dataclass
from typing import Any

from llamakit_proxy.chunks import Style


@dataclass(frozen=True, slots=True)
class Prepared:
    """A generation, ready to be sent to a backend."""

    path: str
    """The backend's path."""
    document: dict[str, Any]
    """The backend's request."""
    style: Style
    """How the client wants the answer written."""
    stream: bool
    """Whether the client wants it as a stream."""
    others: tuple[dict[str, Any], ...] = ()
    """The backend's requests for the choices after the first, in their order."""
    prompts: int = 1
    """How many prompts there are; the choices of each follow one another."""


@dataclass(frozen=True, slots=True)
class PreparedEmbedding:
    """An embedding request, ready to be sent in one or several parts."""

    inputs: list[str]
    base64: bool
