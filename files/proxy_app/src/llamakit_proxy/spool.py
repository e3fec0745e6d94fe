"""Log rows on disk until they are in Postgres: what a crash, a restart or an outage leaves behind.

A folder of files, each with one row of JSON a line. A worker appends to a file of its own and holds
a lock on it for as long as it lives; the kernel takes the lock away however the worker ends. A file
that nobody holds is left over, and whoever locks it first writes its rows and removes it. That may
happen twice when a crash comes in between, which Postgres sorts out: a row is there already.
"""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

FILE_BYTES = 1 << 20
"""A file that has grown so large is left to be written back, and the next one begun."""
_LARGEST_FILE = 128 << 20
_SUFFIX = ".rows"
_CORRUPT = ".corrupt"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW

_log = logging.getLogger(__name__)


class SpoolFullError(Exception):
    """There is no room for more rows within the bound."""


class Leftover:
    """A file that nobody appends to any more, with its rows, locked for us."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._unreadable = 0
        self.rows: list[bytes] = []
        """Those not yet taken away by the caller, the oldest first."""

    def read(self) -> None:
        """Read the rows. OSError when the disk fails."""
        if os.fstat(self._descriptor).st_size > _LARGEST_FILE:
            self._unreadable = 1
            return
        with open(self._descriptor, "rb", closefd=False) as file:
            *lines, rest = file.read().split(b"\n")
        self.rows = [line for line in lines if _is_row(line)]
        self._unreadable = len(lines) - len(self.rows)
        if _is_row(rest):
            self.rows.append(rest)
        elif rest:
            _log.warning("request log: the last row of %s was not written to its end", self._path)

    def finish(self) -> None:
        """All rows are written. A file in which not all could be read is set aside.

        OSError when it can be neither; then it is read again one day.
        """
        try:
            if not self._unreadable:
                self._path.unlink(missing_ok=True)
                return
            aside = self._path.with_suffix(_CORRUPT)
            self._path.rename(aside)
            _log.error(
                "request log: %d lines of a spooled file are no rows, the others are written; "
                "it is kept as %s: look at it and remove it",
                self._unreadable,
                aside,
            )
        finally:
            self.release()

    def release(self) -> None:
        """Let somebody else have what is left of it."""
        os.close(self._descriptor)


class Spool:
    """The folder, and the file of this process in it. No two threads may use it at once.

    OSError, of all that appends or reads: the disk.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._path = folder
        self._size = 0
        self._unsynced = False
        self._counted: dict[str, tuple[int, int]] = {}
        self._refused: set[str] = set()
        self.leftover_rows = 0
        """Rows in files that nobody appends to, when they were last looked at."""
        self.bytes = 0
        """Size of the whole folder, when it was last looked at."""

    @property
    def size(self) -> int:
        """Bytes in the file of this process."""
        return self._size

    def append(self, rows: Sequence[bytes]) -> None:
        """Keep these rows, all of them or none. SpoolFullError when the bound is reached."""
        data = b"".join(row + b"\n" for row in rows)
        self.bytes = sum(size for _, size in self._files(_SUFFIX, _CORRUPT))
        if self.bytes + len(data) > self._max_bytes:
            bound = f"{self._max_bytes} bytes (LLAMA_PROXY_SPOOL_MAX_BYTES)"
            raise SpoolFullError(f"{self._folder} may not have more than {bound}")
        descriptor = self._begun()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            os.ftruncate(descriptor, self._size)
            raise
        self._size += len(data)
        self.bytes += len(data)
        self._unsynced = True

    def clear(self) -> None:
        """What this process appended is in Postgres."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
        self.bytes -= self._size
        self._size = 0

    def leave(self) -> None:
        """Append to another file from now on; this one is left over."""
        self._let_go()
        self.look()

    def sync(self) -> None:
        """Have the disk keep what was appended, even when the power goes."""
        if self._descriptor is None or not self._unsynced:
            return
        os.fdatasync(self._descriptor)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._unsynced = False

    def oldest(self) -> Leftover | None:
        """The oldest file that is left over; None when there is none."""
        self.look()
        for name, _ in sorted(self._files(_SUFFIX)):
            descriptor = self._take(name)
            if descriptor is not None:
                leftover = Leftover(self._folder / name, descriptor)
                try:
                    leftover.read()
                except OSError:
                    leftover.release()
                    raise
                self.leftover_rows -= self._counted.pop(name, (0, 0))[1]
                return leftover
        return None

    def look(self) -> None:
        """Find out anew how much there is."""
        self.bytes = sum(size for _, size in self._files(_SUFFIX, _CORRUPT))
        counted = {}
        for name, size in self._files(_SUFFIX):
            known = self._counted.get(name)
            if known is not None and known[0] == size:
                counted[name] = known
            elif (descriptor := self._take(name)) is not None:
                counted[name] = (size, _count(descriptor))
        self._counted = counted
        self.leftover_rows = sum(rows for _, rows in counted.values())

    def close(self) -> None:
        """An empty file goes; one with rows is left over."""
        if self._descriptor is not None and self._size == 0:
            self._path.unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._size = None, 0

    def _begun(self) -> int:
        """The file to append to, locked for as long as this process lives."""
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink:
            return self._descriptor
        self._let_go()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = self._folder / f"{time.time_ns():020d}-{os.getpid()}{_SUFFIX}"
            try:
                os.close(os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                continue
            # Somebody may have taken it for one that is left over, in between.
            descriptor = _lock(path)
            if descriptor is not None:
                self._descriptor, self._path = descriptor, path
                return descriptor

    def _files(self, *suffixes: str) -> Iterator[tuple[str, int]]:
        """Names and sizes."""
        try:
            entries = list(os.scandir(self._folder))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.endswith(suffixes) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False).st_size

    def _take(self, name: str) -> int | None:
        """Lock a file that is left over; None when it is not, or can't be opened."""
        try:
            return _lock(self._folder / name)
        except OSError as error:
            if name not in self._refused:
                _log.error("request log: can't read %s: %s", self._folder / name, error.strerror)
                self._refused.add(name)
            return None


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock on a file; None when another has it, or the file is gone."""
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _count(descriptor: int) -> int:
    """Lines of a file, which is closed."""
    with open(descriptor, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 16), b""))


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False
