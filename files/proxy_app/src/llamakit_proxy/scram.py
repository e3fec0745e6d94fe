"""SCRAM-SHA-256 verifiers: what Postgres keeps instead of a password (RFC 5803)."""

import base64
import hashlib
import hmac
import re

_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):[A-Za-z0-9+/=]+")


def matches(password: str, verifier: str | None) -> bool:
    """Whether ``verifier``, as in pg_authid.rolpassword, was made from this ASCII password."""
    match = _VERIFIER.fullmatch(verifier or "")
    if match is None:
        return False
    iterations, salt, stored_key = match.groups()
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(salt), int(iterations)
    )
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), base64.b64decode(stored_key))
