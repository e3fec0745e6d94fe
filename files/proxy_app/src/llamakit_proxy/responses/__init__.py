"""OpenAI's Responses API, made of the chat that a backend knows: a request becomes a chat's
request, a chat's answer becomes a response. Nothing is stored."""

from .fields import FIELDS
from .request import prepare
from .wording import own_words

__all__ = ["FIELDS", "own_words", "prepare"]
