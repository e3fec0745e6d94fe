"""The list of what is in a bundle; only Python's own library reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llamakit.bundle.errors import BundleError

FOLDER = "bundle"
NAME = f"{FOLDER}/manifest.json"
FORMAT = 1
# What the environments of hosts, of this machine and of the controller are made from.
LOCKS = ("controller", "proxy", "tracing", "llama_server", "postgres", "supervisor", "build")


@dataclass(frozen=True, slots=True)
class File:
    """One file: its path in the checkout, its size in bytes, and what it is for."""

    path: str
    size: int
    sha256: str
    purpose: str


@dataclass(slots=True)
class Manifest:
    """What a bundle is good for. ``models`` has the files of each id, by path in the bundle."""

    version: str
    machine: str
    python: list[str]
    locks: dict[str, str]
    models: dict[str, list[str]]
    left_out: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)

    def text(self) -> str:
        """The manifest as it is written down."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    def of(self, *folders: str) -> list[File]:
        """The files below these folders of the checkout."""
        return [file for file in self.files if file.path.startswith(folders)]


def packages(python: str, lock: str) -> str:
    """Where the wheels of a lock are for one Python, from the checkout."""
    return f"{FOLDER}/python/{python}/{lock}.tar"


def read_manifest(checkout: Path) -> Manifest:
    """The manifest of an unpacked bundle.

    Raises:
        BundleError: it is not there, damaged, or of another kit.
    """
    file = checkout / NAME
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError("of another format")
        files = [File(**entry) for entry in document.pop("files")]
        return Manifest(**document, files=files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{file} can't be read: {error}",
            "the manifest that `./console.sh bundle` has written",
            "unpack the archive again, into a new folder",
        ) from error
