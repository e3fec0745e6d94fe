"""The HTTP client of downloads, with what the environment says of proxies and certificates."""

from __future__ import annotations

from typing import Any

import httpx

from llamakit.fetch.errors import FetchError, FetchStatus


def make_client(**options: Any) -> httpx.Client:
    """``httpx.Client(**options)``.

    Raises:
        FetchError: the environment's settings can't be used. They may hold a password, so that the
            message has none of them.
    """
    try:
        return httpx.Client(**options)
    except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:
        raise FetchError(
            FetchStatus.UNREACHABLE,
            "the settings of the network can't be used\n"
            f"  found:    {type(error).__name__}, when they were read\n"
            "  expected: proxies as http://HOST:PORT, a password's special characters as %XX; "
            "a file of PEM certificates that is there\n"
            "  do:       correct HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE or "
            "SSL_CERT_DIR, in config/local.env or the environment",
        ) from None
