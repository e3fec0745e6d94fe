"""Whose request it is, when it comes through a reverse proxy: only proxies that the settings name
are believed. Everyone else can write into a header what they like."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS = 32
"""Entries of X-Forwarded-For that are looked at, from the right."""
_FORWARDED_FOR = b"x-forwarded-for"
_SPEAKS_FOR_OTHERS = frozenset({b"forwarded", _FORWARDED_FOR, b"x-real-ip", b"via"})


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, as far as that is known."""

    address: str | None
    """In its usual form; None when a trusted proxy names nobody that can be read."""
    here: bool
    """Whether the client itself runs on this machine, and no proxy that is not trusted speaks for
    it."""


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks separated by commas or spaces; ValueError names what is neither."""
    return tuple(_network(word) for word in text.replace(",", " ").split())


def find(scope: Any, trusted: Iterable[Network] = ()) -> Client:
    """The client of an ASGI request.

    Without a trusted peer that is the peer. A trusted one has appended, at the right of
    X-Forwarded-For, whom it serves: the right-most address there that is not trusted is the client.
    """
    peer = scope.get("client")
    if not peer:
        return Client(None, here=False)
    address = _address(peer[0])
    if address is None:
        return Client(peer[0], here=False)
    headers = scope["headers"]
    names = {name for name, _ in headers}
    if not _is_in(address, trusted) or _FORWARDED_FOR not in names:
        client = _alone(peer[0])
        if client.here and not names.isdisjoint(_SPEAKS_FOR_OTHERS):
            return Client(client.address, here=False)
        return client
    for entry in _hops(headers):
        address = _address(entry)
        if address is None:
            return Client(None, here=False)
        if not _is_in(address, trusted):
            break
    return Client(str(address), here=address.is_loopback)


@lru_cache(maxsize=1024)
def _alone(peer: str) -> Client:
    """The client at an address, when it speaks for nobody else."""
    address = _address(peer)
    if address is None:
        return Client(peer, here=False)
    return Client(str(address), here=address.is_loopback)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """The entries of all X-Forwarded-For headers, the last one first; "" for one too many."""
    text = b",".join(value for name, value in headers if name == _FORWARDED_FOR)
    entries = text.decode("latin-1").rsplit(",", MAX_HOPS)
    if len(entries) > MAX_HOPS:
        entries[0] = ""
    yield from reversed(entries)


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """An address, with or without a port; None for what is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # A zone means something on the machine that wrote it alone, and may hold any character.
        if address.scope_id is not None:
            address = IPv6Address(int(address))
        return address.ipv4_mapped or address
    return address


def _is_in(address: Address, trusted: Iterable[Network]) -> bool:
    return any(address in network for network in trusted)


def _network(word: str) -> Network:
    try:
        network = ip_network(word)
    except ValueError:
        raise ValueError(f"{word!r} is neither an address nor a network like 10.0.0.0/8") from None
    if not network.prefixlen:
        raise ValueError(f"{word!r} is everybody; name the proxies alone")
    return network
