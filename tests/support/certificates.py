"""Certificates as the openssl program makes them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: Path
    key: Path

    def install(self, secrets_dir: Path) -> None:
        """As the secrets that the proxy looks for."""
        (secrets_dir / "tls_certificate").write_bytes(self.certificate.read_bytes())
        (secrets_dir / "tls_key").write_bytes(self.key.read_bytes())


def self_signed(folder: Path, name: str = "localhost", *options: str) -> Pair:
    """For one name; ``options`` are those of ``openssl req``."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl("req", "-x509", *_request(pair, name), "-days", "2", *options)
    return pair


def signed_by_an_authority(folder: Path, name: str = "localhost") -> tuple[Pair, Path]:
    """The server's, followed by its authority's, and the authority's alone."""
    authority = self_signed(folder, "authority", "-addext", "keyUsage=keyCertSign")
    pair, request = Pair(folder / "leaf.crt", folder / "leaf.key"), folder / "leaf.csr"
    _openssl("req", "-new", "-keyout", str(pair.key), "-out", str(request), *_options(name))
    _openssl(
        *("x509", "-req", "-in", str(request), "-days", "2", "-copy_extensions", "copy"),
        *("-CA", str(authority.certificate), "-CAkey", str(authority.key), "-CAcreateserial"),
        *("-out", str(pair.certificate)),
    )
    with pair.certificate.open("ab") as chain:
        chain.write(authority.certificate.read_bytes())
    return pair, authority.certificate


def locked_key(pair: Pair) -> Path:
    """The same key behind a passphrase."""
    path = pair.key.with_suffix(".locked")
    _openssl("pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:x", "-out", str(path))
    return path


def ended(pair: Pair) -> Pair:
    """The same key with a certificate that was good until yesterday."""
    path = pair.certificate.with_suffix(".ended")
    given = ("-in", str(pair.certificate), "-signkey", str(pair.key))
    _openssl("x509", *given, "-days", "-1", "-out", str(path))
    return Pair(path, pair.key)


def _request(pair: Pair, name: str) -> list[str]:
    return ["-keyout", str(pair.key), "-out", str(pair.certificate), *_options(name)]


def _options(name: str) -> list[str]:
    names = f"subjectAltName=DNS:{name},IP:127.0.0.1"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    return [*curve, "-subj", f"/CN={name}", "-addext", names]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
