"""Addresses of model files, and what the hub's answers say about them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

import httpx

from llamakit.config.entries import Source
from llamakit.fetch.errors import FetchError, FetchStatus

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Remote:
    """One file to fetch. ``token`` is sent to the address's own origin only."""

    url: str
    page: str  # where a person can look
    token: str | None
    hub: bool

    @property
    def shown(self) -> str:
        """The address as it may be shown: a query can hold a signature."""
        return self.url.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a response tells about the whole file; None where it doesn't."""

    size: int | None
    validator: str | None
    """What is another one when the file is: its ETag, or when it was last modified."""
    sha256: str | None


def remote_files(source: Source, environment: Mapping[str, str] = os.environ) -> list[Remote]:
    """The addresses of all files of a source of kind ``hf`` or ``url``, in order."""
    if source.kind == "url":
        base, _, query = source.place.partition("?")
        parent = base.rsplit("/", 1)[0]
        tail = f"?{query}" if query else ""
        urls = [f"{parent}/{name}{tail}" for name in source.names]
        if len(urls) == 1:
            urls = [source.place]
        return [Remote(url, url.partition("?")[0], None, hub=False) for url in urls]
    endpoint = hub_endpoint(environment)
    token = (environment.get("HF_TOKEN") or "").strip() or None
    revision = quote(source.revision, safe="")
    folder = PurePosixPath(source.file).parent
    page = f"{endpoint}/{source.place}"
    return [
        Remote(f"{page}/resolve/{revision}/{quote(str(folder / name))}", page, token, hub=True)
        for name in source.names
    ]


def hub_endpoint(environment: Mapping[str, str] = os.environ) -> str:
    """The hub's address, or its mirror's, without a slash at the end."""
    endpoint = (environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    return endpoint if "://" in endpoint else f"https://{endpoint}"


def facts(response: httpx.Response) -> Facts:
    """Size, validator and checksum, also from the redirects that led here.

    The hub answers with a redirect that carries the file's real size and, for large files, its
    SHA-256 as ``X-Linked-Etag``; the final server's own ETag may be anything.
    """
    size = total_size(response)
    validator = response.headers.get("etag") or response.headers.get("last-modified")
    sha256 = None
    for hop in [*response.history, response]:
        linked = hop.headers.get("x-linked-etag", "")
        if linked:
            validator = linked
            match = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', linked)
            sha256 = match[1] if match else sha256
        if hop.headers.get("x-linked-size", "").isdigit():
            size = int(hop.headers["x-linked-size"])
    return Facts(size, validator, sha256)


def total_size(response: httpx.Response) -> int | None:
    """Bytes of the whole file, by ``Content-Range`` or ``Content-Length``."""
    match = re.search(r"/(\d+)$", response.headers.get("content-range", ""))
    if match:
        return int(match[1])
    length = response.headers.get("content-length", "")
    return int(length) if response.status_code == httpx.codes.OK and length.isdigit() else None


def refusal(remote: Remote, status: int) -> FetchError:
    """The error for an answer that another attempt would not change."""
    if status in (401, 403):
        sent = "HF_TOKEN was sent and not accepted" if remote.token else "no HF_TOKEN is set"
        remedy = (
            f"open {remote.page} and accept the model's licence, make a token in your account's "
            "settings, then run: HF_TOKEN=… ./console.sh add"
            if remote.hub
            else "give an address that needs no password"
        )
        message = (
            f"{remote.shown}\n  found:    {status}, access denied ({sent})\n"
            f"  expected: a file that may be read\n  do:       {remedy}"
        )
    elif status in (404, 410):
        message = (
            f"{remote.shown}\n  found:    {status}, no such file\n"
            f"  expected: the file that config/models.yaml names\n"
            f"  do:       compare source: with what is at {remote.page}"
        )
    else:
        message = (
            f"{remote.shown}\n  found:    status {status}\n  expected: 200 or 206\n"
            f"  do:       look at {remote.page}, or set HF_ENDPOINT to a mirror"
        )
    return FetchError(FetchStatus.REFUSED, message)


def unreachable(remote: Remote, reason: str) -> FetchError:
    """The error for a server that can't be talked to."""
    host = urlsplit(remote.url).hostname or "the hub"
    remedy = "check the network or HTTPS_PROXY, set HF_ENDPOINT to a mirror"
    if "CERTIFICATE" in reason.upper():
        remedy = "set SSL_CERT_FILE to the file with your network's certificates"
    return FetchError(
        FetchStatus.UNREACHABLE,
        f"{host} can't be reached\n  found:    {reason}\n"
        f"  expected: an answer from {remote.shown}\n"
        f"  do:       {remedy}, or copy the file into models/ yourself",
    )
