"""Fetches one file: resumable, checked, and either whole or not there at all.

The file grows as ``NAME.part`` with its validator beside it in ``NAME.part.json``, and gets its
name only once its checksum is right. The lock on the part makes a second fetch wait.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from llamakit.fetch.client import make_client
from llamakit.fetch.errors import FetchError, FetchStatus, Retry
from llamakit.fetch.hub import Facts, Remote, facts, refusal, unreachable
from llamakit.fetch.progress import Progress
from llamakit.models.library import part_of
from llamakit.quantities import size

CONNECT_SECONDS = 5.0
STALL_SECONDS = 30.0
CHUNK = 1 << 20
MAX_FAILURES = 5  # attempts in a row that bring nothing
RETRY_SECONDS = 1.0  # doubled with every failure in a row
DISK_MARGIN = 100_000_000  # bytes left free for logs and the database


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the file must be, as far as it is known before."""

    sha256: str | None
    size: int | None


def download(remote: Remote, target: Path, wanted: Wanted, progress: Progress) -> str:
    """Fetches ``remote`` to ``target``; returns the SHA-256.

    Raises:
        FetchError: it can't be had; a part worth resuming is kept.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked_part(target) as part:
            if part is None:
                return sha256_of(target)  # another process finished it while we waited
            return _Download(remote, target, wanted, progress, part).run()
    except OSError as error:
        raise _disk_error(target, wanted.size, error) from error


@contextlib.contextmanager
def _locked_part(target: Path) -> Iterator[BinaryIO | None]:
    """The part, opened and locked; None when the target has appeared in the meantime."""
    path = part_of(target)
    while True:
        with path.open("ab+") as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process is fetching {target.name}; waiting for it", file=sys.stderr)
                fcntl.flock(part, fcntl.LOCK_EX)
            # The holder may have renamed or removed the file that we have just locked.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(part.fileno())):
                if target.exists():
                    yield None
                    return
                continue
            if target.exists():
                path.unlink()
                yield None
                return
            yield part
            return


class _Download:
    def __init__(
        self, remote: Remote, target: Path, wanted: Wanted, progress: Progress, part: BinaryIO
    ) -> None:
        self.remote, self.target, self.wanted, self.progress = remote, target, wanted, progress
        self.part = part
        self.part_path = part_of(target)
        self.notes = self.part_path.with_name(self.part_path.name + ".json")
        self.hash = hashlib.sha256()
        self.done = 0
        self.sha256 = wanted.sha256
        self.size = wanted.size

    def run(self) -> str:
        self._take_up()
        host = urlsplit(self.remote.url).hostname
        if not getproxies() and not (host and resolves(host, CONNECT_SECONDS)):
            self._drop_empty_part()
            raise unreachable(self.remote, "its name can't be resolved")
        headers = {"Accept-Encoding": "identity", "User-Agent": "llamakit"}
        if self.remote.token:
            headers["Authorization"] = f"Bearer {self.remote.token}"
        timeout = httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
        try:
            client = make_client(headers=headers, timeout=timeout, follow_redirects=True)
        except FetchError:
            self._drop_empty_part()
            raise
        with client:
            self._attempts(client)
        self.progress.finish(self.done)
        return self._complete()

    def _take_up(self) -> None:
        """Reads what an earlier run has left, so that the checksum covers it."""
        self.part.seek(0)
        while chunk := self.part.read(CHUNK):
            self.hash.update(chunk)
            self.done += len(chunk)

    def _start_over(self) -> None:
        self.part.truncate(0)
        self.hash, self.done = hashlib.sha256(), 0
        self.notes.unlink(missing_ok=True)

    def _attempts(self, client: httpx.Client) -> None:
        failures, connected = 0, False
        while True:
            before = self.done
            try:
                self._attempt(client)
                return
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                if not connected:
                    self._drop_empty_part()
                    raise unreachable(self.remote, _reason(error)) from error
                reason = _reason(error)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                self._drop_empty_part()
                raise unreachable(self.remote, _reason(error)) from error
            except (httpx.TransportError, Retry) as error:
                connected, reason = True, _reason(error)
            failures = 1 if self.done > before else failures + 1
            if failures >= MAX_FAILURES:
                raise FetchError(
                    FetchStatus.UNREACHABLE,
                    f"the download of {self.target.name} broke off {failures} times in a row "
                    f"({reason})\n  kept:     {size(self.done)} in {self.part_path}\n"
                    "  do:       run the same command again; it goes on from there",
                )
            time.sleep(RETRY_SECONDS * 2 ** (failures - 1))

    def _attempt(self, client: httpx.Client) -> None:
        """One request from where the part ends to the end of the file."""
        resume = {"Range": f"bytes={self.done}-"} if self.done else {}
        with client.stream("GET", self.remote.url, headers=resume) as response:
            status = response.status_code
            known = facts(response)
            if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                if self.done and self.done == (known.size or self.size):
                    self._note(known)
                    return
                self._start_over()
                raise Retry("the part was longer than the file")
            if status in (408, 425, 429) or status >= 500:
                raise Retry(f"status {status}")
            if status not in (200, 206):
                self._drop_empty_part()
                raise refusal(self.remote, status)
            if self.done and not self._continues(response, known):
                self._start_over()
                if status == httpx.codes.PARTIAL_CONTENT:
                    raise Retry("the file has changed on the server")
            self._note(known)
            self._check_size()
            self._check_disk()
            for chunk in response.iter_raw():
                self.part.write(chunk)
                self.hash.update(chunk)
                self.done += len(chunk)
                self.progress.update(self.done)
        if self.size is not None and self.done < self.size:
            raise Retry(f"the connection ended {self.size - self.done} bytes early")

    def _continues(self, response: httpx.Response, known: Facts) -> bool:
        """True when this answer is the rest of the very file that the part began."""
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            return False
        try:
            noted = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            noted = {}
        start = response.headers.get("content-range", "").removeprefix("bytes ").split("-")[0]
        can_be_told = known.validator is not None or self.sha256 is not None
        same = noted == {"validator": known.validator, "size": known.size}
        return bool(start == str(self.done) and same and can_be_told)

    def _note(self, known: Facts) -> None:
        """Keeps what identifies the file, and what it should be where the user didn't say."""
        text = json.dumps({"validator": known.validator, "size": known.size})
        self.notes.write_text(text, encoding="utf-8")
        if self.wanted.size is None:
            self.size = known.size
        elif known.size is not None and known.size != self.wanted.size:
            self._remove()
            raise FetchError(
                FetchStatus.WRONG_CONTENT,
                f"{self.remote.shown}\n  found:    {known.size} bytes on the server\n"
                f"  expected: {self.wanted.size}, the size: in config/models.yaml\n"
                "  do:       check source: (file and revision), or correct size: and sha256:",
            )
        self.sha256 = self.wanted.sha256 or known.sha256
        self.progress.total = self.size or 0

    def _check_size(self) -> None:
        if self.size is not None and self.done > self.size:
            self._start_over()
            raise Retry("the part was longer than the file")

    def _check_disk(self) -> None:
        """Refuses to begin what can't end; what the part has already is not needed again."""
        if self.size is None:
            return
        disk = os.statvfs(self.target.parent)
        free = disk.f_bavail * disk.f_frsize
        needed = self.size - self.done
        if needed and needed + DISK_MARGIN > free:
            self.part.flush()
            self._drop_empty_part()
            raise FetchError(
                FetchStatus.NO_SPACE,
                f"no room for {self.target.name} in {self.target.parent}\n"
                f"  found:    {size(free)} free\n"
                f"  expected: {size(needed + DISK_MARGIN)} ({size(self.size)} in all, "
                f"{size(self.done)} are there, {size(DISK_MARGIN)} stay free)\n"
                "  do:       free some space, or put models/ on another disk (a link will do)",
            )

    def _complete(self) -> str:
        """Checks the whole file and gives it its name."""
        found = self.hash.hexdigest()
        if self.sha256 is not None and found != self.sha256:
            self._remove()
            told = "config/models.yaml says" if self.wanted.sha256 else "the server says"
            raise FetchError(
                FetchStatus.WRONG_CONTENT,
                f"{self.target.name} has the wrong checksum; it was removed\n"
                f"  found:    {found}\n  expected: {self.sha256} ({told})\n"
                "  do:       run the same command again; if it stays so, check source: "
                "and sha256: in config/models.yaml",
            )
        self.part.flush()
        os.fsync(self.part.fileno())
        self.part_path.replace(self.target)
        self.notes.unlink(missing_ok=True)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return found

    def _remove(self) -> None:
        self.part_path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _drop_empty_part(self) -> None:
        if not self.done:
            self._remove()


def _disk_error(target: Path, length: int | None, error: OSError) -> FetchError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space" if full else f"make {target.parent} writable for you"
    return FetchError(
        FetchStatus.NO_SPACE,
        f"can't write {part_of(target)}\n  found:    {error.strerror}\n"
        f"  expected: {size(length) if length else 'room'} for the whole file\n"
        f"  do:       {remedy}, then run the same command again; what has arrived is kept",
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file (about 1 GB a second)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolves(host: str, seconds: float) -> bool:
    """True when the name has an address; the resolver's own timeouts can take half a minute."""
    found = threading.Event()

    def look_up() -> None:
        with contextlib.suppress(OSError):
            if socket.getaddrinfo(host, None):
                found.set()
        done.set()

    done = threading.Event()
    threading.Thread(target=look_up, daemon=True).start()
    done.wait(seconds)
    return found.is_set()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
