"""OpenAI's Responses API, made of the chat that a backend knows: a request becomes a chat's
request, a chat's answer becomes a response. Nothing is stored."""

from .request import FIELDS, prepare
from .wording import own_words

__all__ = ["FIELDS", "own_words", "prepare"]
