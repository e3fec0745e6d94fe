"""The folder of a test run, and the removal of what runs that were killed have left.

``python -m support.leftovers`` removes what belongs to runs that are over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from .account import PREFIX, remove_user
from .processes import end_all, processes_of

STATE = Path("/var/lib/llamakit-local")


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A folder that every user may enter; removed afterwards, with what runs from there."""
    # Not pytest's tmp_path, which nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "owner").write_text(f"{os.getpid()} {psutil.Process().create_time()}")
        yield folder
    finally:
        remove(folder)


def sweep() -> None:
    """Removes the folders, users and processes of runs that are over."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        if not _in_use(folder) and folder.stat().st_uid == os.geteuid():
            remove(folder)


def _in_use(folder: Path) -> bool:
    try:
        pid, started = (folder / "owner").read_text().split()
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 2
    except (OSError, ValueError, psutil.Error):
        return False


def remove(folder: Path) -> None:
    """Ends what runs from a run's folder, and removes it and what its checkouts keep elsewhere."""
    found = [*folder.glob("*/console.sh"), *folder.glob("*/*/console.sh")]
    checkouts = [path.parent for path in found]
    states = [STATE / identity(checkout) for checkout in checkouts]
    end_all(lambda: processes_of([], [folder, *states]))
    users = {entry.pw_name for entry in pwd.getpwall() if Path(entry.pw_dir).is_relative_to(folder)}
    if os.geteuid() == 0:
        for name in users | {f"llamakit-{identity(checkout)}" for checkout in checkouts}:
            remove_user(name)
    for path in [*states, folder]:
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        STATE.rmdir()


def identity(checkout: Path) -> str:
    """What tells one root's checkout from another in the names of users and folders."""
    return hashlib.sha256(str(checkout).encode()).hexdigest()[:6]


if __name__ == "__main__":
    sweep()
