"""API keys: how one is made, and how one is read out of a header sent by anybody.

A key is ``sk-lk-<public id>-<secret>``. The public id finds the row and may be logged and shown;
the database holds the SHA-256 of the whole key. A slow hash would add nothing: the secret is
random, and as long as a hash value nobody can guess.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

PREFIX = "sk-lk-"
# Letters and digits that can't be mistaken for each other when a key is read aloud or copied.
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
PUBLIC_ID_LENGTH = 12
SECRET_LENGTH = 40  # 233 bits

PUBLIC_ID = re.compile(rf"[{ALPHABET}]{{{PUBLIC_ID_LENGTH}}}")
# Fixed lengths and classes only: the time to match does not depend on what a client sends.
_BEARER = re.compile(
    rf"[Bb][Ee][Aa][Rr][Ee][Rr] {{1,8}}"
    rf"({PREFIX}([{ALPHABET}]{{{PUBLIC_ID_LENGTH}}})-[{ALPHABET}]{{{SECRET_LENGTH}}})".encode()
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the one moment when its text is known."""

    public_id: str
    text: str = field(repr=False)

    @property
    def sha256(self) -> bytes:
        """What the database keeps of it: 32 bytes."""
        return hashlib.sha256(self.text.encode()).digest()


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A well-formed key as a client sent it; whether it is good is not known yet."""

    public_id: str
    sha256: bytes = field(repr=False)


def generate() -> NewKey:
    """A new random key."""
    public_id = _random_text(PUBLIC_ID_LENGTH)
    return NewKey(public_id, f"{PREFIX}{public_id}-{_random_text(SECRET_LENGTH)}")


def from_authorization(header: bytes | None) -> PresentedKey | None:
    """The key in an Authorization header's value, None when there is no well-formed one."""
    match = _BEARER.fullmatch(header) if header else None
    if match is None:
        return None
    return PresentedKey(match[2].decode("ascii"), hashlib.sha256(match[1]).digest())


def _random_text(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
