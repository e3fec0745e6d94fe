"""Checks an unpacked bundle before anything is made from it; needs only Python's own library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import FOLDER, File, Manifest, packages

CHUNK = 1 << 20
AGAIN = "make the bundle again from this checkout, where there is internet: ./console.sh bundle"


def check_use(
    checkout: Path, manifest: Manifest, python: str, machine: str, locks: Iterable[str]
) -> None:
    """Checks that the bundle has the packages of these locks for a Python on a kind of machine.

    Raises:
        BundleError: what it lacks.
    """
    if machine != manifest.machine:
        raise BundleError(
            f"a machine of kind {machine}",
            f"{manifest.machine}, what this bundle was made for",
            f"make the bundle on a {machine} machine",
        )
    if python not in manifest.python:
        raise BundleError(
            f"Python {python}",
            f"one the bundle has packages for: {', '.join(manifest.python)}",
            f"make the bundle again with --python {','.join([*manifest.python, python])}",
        )
    for lock in locks:
        file = checkout / "requirements" / f"{lock}.txt"
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != manifest.locks.get(lock):
            raise BundleError(
                f"{file} is not the one that the bundle was made from",
                "the packages of the bundle and the lock belong together",
                f"{AGAIN}, or unpack it into a new folder",
            )
        if not (checkout / packages(python, lock)).is_file():
            raise BundleError(
                f"{packages(python, lock)} is not there", "it, as the manifest says", AGAIN
            )


def check_files(checkout: Path, files: list[File], progress: Callable[[int], None]) -> None:
    """Checks sizes and checksums; ``progress`` is told the bytes read so far.

    Raises:
        BundleError: the first file that is not what it was.
    """
    done = 0
    for file in files:
        path = checkout / file.path
        remedy = "copy the archive again and unpack it into a new folder"
        if not path.is_file():
            raise BundleError(f"{file.path} is not there", f"{file.purpose}", remedy)
        if (size := path.stat().st_size) != file.size:
            raise BundleError(f"{file.path} has {size} bytes", f"{file.size}", remedy)
        digest = hashlib.sha256()
        with path.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                progress(done)
        if digest.hexdigest() != file.sha256:
            raise BundleError(
                f"{file.path} has the SHA-256 {digest.hexdigest()}", file.sha256, remedy
            )


def own_files(manifest: Manifest) -> list[File]:
    """What is not the checkout's, which people may edit."""
    return manifest.of(f"{FOLDER}/")
