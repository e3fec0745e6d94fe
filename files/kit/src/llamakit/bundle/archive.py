"""Writes the archive: whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import NAME, File, Manifest
from llamakit.quantities import size


@dataclass(frozen=True, slots=True)
class Member:
    """A file or a link to pack: its path in the checkout, where it is, and what it is for."""

    path: str
    source: Path
    purpose: str
    sha256: str | None = None  # what it has to be, where that is known


def write_archive(
    out: Path, members: Iterable[Member], manifest: Manifest, progress: Callable[[int], None]
) -> None:
    """Packs ``members`` below a folder named after the archive, and ``manifest`` with their sums.

    It grows as ``OUT.part``, which does not outlive a failure.

    Raises:
        BundleError: the disk is full, or a file is not what it has to be.
    """
    part = out.with_name(f"{out.name}.part")
    try:
        with _removed_on_failure(part), part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                done = 0
                for member in members:
                    packed = _add(archive, out.stem, member, _Shown(progress, done))
                    if packed:
                        manifest.files.append(packed)
                        done += packed.size
                _add_text(archive, f"{out.stem}/{NAME}", manifest.text())
            file.flush()
            os.fsync(file.fileno())
            part.replace(out)
        _sync_folder(out.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise BundleError(
            f"no room on the disk of {out.parent} ({os.strerror(error.errno)})",
            "room for the whole archive; nothing of it was kept",
            "make room, or name another place with --out",
        ) from error


def pack_folder(folder: Path, out: Path, names: Iterable[str]) -> None:
    """Packs files of ``folder`` into a tar archive that depends on their content alone."""
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(names):
            info = archive.gettarinfo(folder / name, arcname=name)
            _plain(info, 0)
            with (folder / name).open("rb") as source:
                archive.addfile(info, source)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Tells the progress of one file as that of all."""

    progress: Callable[[int], None]
    before: int

    def __call__(self, done: int) -> None:
        self.progress(self.before + done)


class _Reader:
    """Reads a file for ``tarfile``, which takes it in pieces, and sums it up on the way."""

    def __init__(self, source: IO[bytes], progress: Callable[[int], None]) -> None:
        self._source, self._progress = source, progress
        self._done = 0
        self.digest = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        chunk = self._source.read(count)
        self.digest.update(chunk)
        self._done += len(chunk)
        self._progress(self._done)
        return chunk


def _add(
    archive: tarfile.TarFile, folder: str, member: Member, progress: Callable[[int], None]
) -> File | None:
    info = archive.gettarinfo(member.source, arcname=f"{folder}/{member.path}")
    if info.issym():
        archive.addfile(_plain(info))
        return None
    # A file with a second name is still a file here.
    info.type, info.linkname = tarfile.REGTYPE, ""
    with member.source.open("rb") as source:
        info.size = os.fstat(source.fileno()).st_size
        reader = _Reader(source, progress)
        archive.addfile(_plain(info), cast(IO[bytes], reader))
    found = reader.digest.hexdigest()
    if member.sha256 not in (None, found):
        raise BundleError(
            f"{member.source} has the SHA-256 {found}",
            f"{member.sha256} (config/models.yaml)",
            f"rm {member.source}, and fetch it again: ./console.sh add",
        )
    return File(member.path, info.size, found, member.purpose)


def _add_text(archive: tarfile.TarFile, path: str, text: str) -> None:
    info = tarfile.TarInfo(path)
    content = text.encode()
    info.size = len(content)
    archive.addfile(_plain(info, int(time.time())), io.BytesIO(content))


def _plain(info: tarfile.TarInfo, changed: int | None = None) -> tarfile.TarInfo:
    """Without whose it was here, and readable by all, as a checkout is."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.mode & 0o100 and not info.issym() else 0o644
    info.mtime = int(info.mtime) if changed is None else changed
    return info


@contextlib.contextmanager
def _removed_on_failure(part: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_room(out: Path, needed: int) -> None:
    """Looks beforehand whether ``needed`` bytes can be written beside ``out``.

    Raises:
        BundleError: they can't, or there is no such folder.
    """
    try:
        stat = os.statvfs(out.parent)
    except OSError as error:
        raise BundleError(
            f"{out.parent}: {error.strerror}",
            "a folder that can be written to",
            "name it with --out",
        ) from error
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise BundleError(
            f"{size(free)} free in {out.parent}",
            f"about {size(needed)}, the size of the archive",
            "make room, or name another place with --out",
        )
