"""Requests as clients send them, checked and rewritten as a backend needs them."""

from .chat import FIELDS as CHAT_FIELDS
from .chat import prepare as chat
from .completion import FIELDS as COMPLETION_FIELDS
from .completion import prepare as completion
from .embedding import FIELDS as EMBEDDING_FIELDS
from .embedding import prepare as embedding
from .fields import Field, Support

__all__ = [
    "CHAT_FIELDS",
    "COMPLETION_FIELDS",
    "EMBEDDING_FIELDS",
    "Field",
    "Support",
    "chat",
    "completion",
    "embedding",
]
