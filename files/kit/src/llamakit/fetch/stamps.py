"""Remembers the checksums of files that have not changed since they were computed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from llamakit.fetch.download import sha256_of


class Stamps:
    """SHA-256 by path, valid while size and modification time (ns) stay as they were."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[str, list[object]] = {}
        if file is not None:
            try:
                self._known = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                self._known = {}  # a lost or damaged stamp only costs time

    def sha256(self, path: Path) -> str:
        """The file's checksum, computed only when the file is new or has changed."""
        key, status = str(path.absolute()), path.stat()
        entry = self._known.get(key)
        if isinstance(entry, list) and entry[:2] == [status.st_size, status.st_mtime_ns]:
            return str(entry[2])
        found = sha256_of(path)
        self._known[key] = [status.st_size, status.st_mtime_ns, found]
        return found

    def remember(self, path: Path, sha256: str) -> None:
        """Notes a checksum that was just computed."""
        status = path.stat()
        self._known[str(path.absolute())] = [status.st_size, status.st_mtime_ns, sha256]

    def save(self) -> None:
        """Writes the stamps of the files that still exist, whole or not at all."""
        if self._file is None:
            return
        kept = {path: entry for path, entry in self._known.items() if Path(path).exists()}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        part.write_text(json.dumps(kept, indent=1, sort_keys=True), encoding="utf-8")
        part.replace(self._file)
