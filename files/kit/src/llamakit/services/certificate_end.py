"""Reads when an X.509 certificate ends, without OpenSSL: Python has no public way to ask."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
VERSION, UTC_TIME, GENERALIZED_TIME = 0xA0, 0x17, 0x18


class CertificateUnreadable(ValueError):
    """The file holds no certificate that we understand."""


def certificate_end(file: Path) -> datetime:
    """When the first certificate of a PEM file ends; the others are those that signed it.

    Raises:
        CertificateUnreadable: it is none.
        OSError: the file can't be read.
    """
    match = PEM.search(file.read_text(encoding="ascii", errors="replace"))
    if match is None:
        raise CertificateUnreadable(f"{file} holds no certificate in PEM")
    try:
        # Certificate → tbsCertificate → [version], serial, algorithm, issuer, validity → times
        ((_, whole),) = _parts(ssl.PEM_cert_to_DER_cert(match[0]))
        _, signed = next(_parts(whole))
        fields = [content for tag, content in _parts(signed) if tag != VERSION]
        _, (tag, text) = _parts(fields[3])
        return _time(tag, text.decode("ascii"))
    except (ValueError, IndexError, StopIteration) as error:
        raise CertificateUnreadable(f"{file} holds a damaged certificate") from error


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The DER values that follow each other in the data: tag and content."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:  # the length itself has so many bytes
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("it ends within a value")
        yield tag, data[at : at + length]
        at += length


def _time(tag: int, text: str) -> datetime:
    if tag == UTC_TIME:
        # Two digits of a year: those from 50 on are of the last century (RFC 5280, 4.1.2.5.1).
        century = "19" if int(text[:2]) >= 50 else "20"
        text = century + text
    elif tag != GENERALIZED_TIME:
        raise ValueError(f"a time of the unknown type {tag:#x}")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
