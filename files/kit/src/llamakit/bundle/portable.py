"""Makes a wheel of llama-cpp-python run on hosts that lack GNU's OpenMP library."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from pathlib import Path

# llama.cpp's own libraries look for others beside themselves first ($ORIGIN). Bare hosts have all
# that it needs but this one, which its licence lets go along with what it was compiled into.
LIBRARY = "libgomp.so.1"
PLACE = f"llama_cpp/lib/{LIBRARY}"


def find_library(machine: str) -> Path | None:
    """Where this machine has the library, if it has."""
    for folder in (f"/usr/lib/{machine}-linux-gnu", "/usr/lib64", "/usr/lib"):
        if (file := Path(folder) / LIBRARY).is_file():
            return file
    return None


def needed_glibc(library: bytes) -> int:
    """The minor version of the C library (2.x) that a library was built against."""
    return max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library))


def with_library(wheel: Path, library: Path, out: Path) -> None:
    """Writes ``wheel`` to ``out`` with the library in it, unless it has one."""
    content = library.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    record = f"{PLACE},sha256={digest},{len(content)}\n"
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        names = source.namelist()
        for info in source.infolist():
            data = source.read(info)
            if PLACE not in names and info.filename.endswith(".dist-info/RECORD"):
                data = record.encode() + data
            target.writestr(info, data)
        if PLACE not in names:
            # The oldest date that a zip file can hold: the same wheel comes out every time.
            info = zipfile.ZipInfo(PLACE, (1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, content)
