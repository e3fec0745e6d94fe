"""The proxy's certificate: what the server shows, and what this machine's own checks trust."""

import re
import ssl
from pathlib import Path

from .settings import Settings, SettingsError

CERTIFICATE = "tls_certificate"
KEY = "tls_key"

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What to speak TLS with, 1.2 or newer; None when the settings say plain http.

    SettingsError when certificate and key can't be used.
    """
    if not settings.tls:
        return None
    return context_of(settings.secret_file(CERTIFICATE), settings.secret_file(KEY))


def context_of(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server speaks TLS with, given these files; SettingsError when it can't."""
    _first_certificate(certificate)
    _read(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password callback OpenSSL would ask on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        raise SettingsError(_explain(error, certificate, key)) from error
    return context


def client_context(settings: Settings) -> ssl.SSLContext | None:
    """Trusts the proxy's own certificate and no other, whatever name it is for: this machine
    reaches the proxy by an address that no certificate has to name. None for plain http."""
    if not settings.tls:
        return None
    certificate = settings.secret_file(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Alone, without whoever signed it, it is trust enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=_first_certificate(certificate))
    return context


def _first_certificate(path: Path) -> str:
    """The server's own certificate; those that signed it follow it in the file."""
    found = _PEM.search(_read(path))
    if found is None:
        raise SettingsError(
            f"{path} holds no certificate; expected PEM text with -----BEGIN CERTIFICATE-----, "
            "the server's own first and then those that signed it"
        )
    return found[0]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise SettingsError(
            f"can't read {path}: {error.strerror}; LLAMA_PROXY_TLS=1 needs it: give the "
            "certificate and its key, or turn TLS off with LLAMA_PROXY_TLS=0"
        ) from error


def _explain(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"the key {key} does not belong to the certificate {certificate}; "
            "give the two that were made together"
        )
    if "ENCRYPTED" in _read(key):
        return (
            f"the key {key} is locked with a passphrase; give it without one: "
            "`openssl pkey -in LOCKED -out KEY`"
        )
    if error.reason in {"EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"}:
        return (
            f"OpenSSL finds the certificate {certificate} too weak ({error.reason}); expected RSA "
            "of 2048 bits or more, or an elliptic curve, signed with SHA-256"
        )
    return (
        f"can't use the certificate {certificate} with the key {key} ({error.reason or 'no PEM'}); "
        "expected PEM text in both, the key with -----BEGIN PRIVATE KEY-----"
    )
