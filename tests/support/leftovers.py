"""The folders of a test run, and the removal of what runs that were killed have left.

``python -m support.leftovers`` removes what belongs to runs that are over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import subprocess
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
    new = Path(tempfile.mkdtemp(prefix="llamakit-new-", dir="/tmp"))
    new.chmod(0o755)
    (new / "owner").write_text(f"{os.getpid()} {psutil.Process().create_time()}")
    # The name comes last: others sweep what has it and no owner.
    folder = new.rename(new.with_name(new.name.replace("llamakit-new-", PREFIX)))
    try:
        yield folder
    finally:
        remove(folder)


def sweep() -> None:
    """Removes the folders, users and processes of runs that are over."""
    with Path(__file__).open() as ourselves:
        # Sessions that run side by side may begin at the same time.
        fcntl.flock(ourselves, fcntl.LOCK_EX)
        for folder in Path("/tmp").glob(f"{PREFIX}*"):
            if _is_abandoned(folder):
                remove(folder)


def _is_abandoned(folder: Path) -> bool:
    # Its own run may be removing it.
    with contextlib.suppress(FileNotFoundError):
        return not _in_use(folder) and folder.stat().st_uid == os.geteuid()
    return False


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
    # A test that was killed has left its small disk.
    for mount in psutil.disk_partitions(all=True):
        if Path(mount.mountpoint).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount.mountpoint], check=False)
    for path in [*states, folder]:
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        STATE.rmdir()


def identity(checkout: Path) -> str:
    """What tells one root's checkout from another in the names of users and folders."""
    return hashlib.sha256(str(checkout).encode()).hexdigest()[:6]


if __name__ == "__main__":
    sweep()
