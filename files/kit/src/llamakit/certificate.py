"""A self-signed certificate of the host's own, for networks without a certificate authority."""

from __future__ import annotations

import argparse
import ipaddress
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llamakit.arguments import Commands

CERTIFICATE, KEY = "tls_certificate", "tls_key"
# Clients refuse longer lives: Apple's limit for certificates that a user trusts by hand.
LIFE_DAYS = 825
RENEWED_DAYS_BEFORE = 30


class CertificateError(Exception):
    """openssl can't make or read a certificate. The text says what it said."""


def add_commands(subcommands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``certificate`` to the kit's command line."""
    parser = subcommands.add_parser("certificate", help="make or renew a self-signed certificate")
    parser.add_argument(
        "--directory", type=Path, required=True, help="gets tls_certificate, tls_key"
    )
    parser.add_argument("--names", required=True, help="host names and addresses, apart by commas")
    parser.add_argument("--owner", required=True, help="whose files they are")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints ``{"changed": …}``; exit 1 with what openssl said when it can't be made."""
    names = [name for name in options.names.split(",") if name]
    try:
        changed = ensure(options.directory, names, options.owner)
    except CertificateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"changed": changed}))
    return 0


def ensure(directory: Path, names: list[str], owner: str) -> bool:
    """Makes the pair where there is none that is whole, for these names, and good for a month.

    Whether it was made. Raises CertificateError.
    """
    if _is_good(directory, names):
        return False
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        key, certificate = Path(folder, KEY), Path(folder, CERTIFICATE)
        _openssl(
            *["req", "-x509", "-sha256", "-nodes", "-days", str(LIFE_DAYS)],
            *["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            *["-keyout", str(key), "-out", str(certificate)],
            *["-subj", f"/CN={names[0][:64]}", "-addext", f"subjectAltName={_alternatives(names)}"],
            *["-addext", "extendedKeyUsage=serverAuth"],
            *["-addext", "keyUsage=critical,digitalSignature,keyCertSign"],
        )
        for file in (key, certificate):
            file.chmod(0o600)
            shutil.chown(file, owner)
            file.replace(directory / file.name)
    return True


def _is_good(directory: Path, names: list[str]) -> bool:
    certificate, key = directory / CERTIFICATE, directory / KEY
    if not (certificate.exists() and key.exists()):
        return False
    try:
        _openssl(
            *["x509", "-in", str(certificate), "-noout"],
            *["-checkend", str(RENEWED_DAYS_BEFORE * 86_400)],
        )
        # An interrupted run may have left a key and another one's certificate.
        ours = _openssl("pkey", "-in", str(key), "-pubout")
        if ours != _openssl("x509", "-in", str(certificate), "-noout", "-pubkey"):
            return False
        said = _openssl("x509", "-in", str(certificate), "-noout", "-ext", "subjectAltName")
    except CertificateError:
        return False
    if not said.strip():
        return False  # made elsewhere, for its CN alone
    present = {_plain(part) for part in said.splitlines()[-1].split(",")}
    return present == {_plain(part) for part in _alternatives(names).split(",")}


def _plain(alternative: str) -> tuple[str, str]:
    """A kind and a name, the same for an IPv6 address however openssl or a person writes it."""
    kind, _, name = alternative.strip().partition(":")
    return kind.split()[0], str(ipaddress.ip_address(name)) if _is_address(name) else name


def _alternatives(names: list[str]) -> str:
    return ",".join(
        dict.fromkeys(f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names)
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _openssl(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["openssl", *arguments], capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        raise CertificateError(
            "there is no openssl; install it, as root: apt-get install openssl"
        ) from None
    if result.returncode != 0:
        raise CertificateError(f"openssl {arguments[0]} failed: {result.stderr.strip()[-300:]}")
    return result.stdout
