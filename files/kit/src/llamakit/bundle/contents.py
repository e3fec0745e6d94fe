"""What of this machine goes into a bundle: the checkout, the collections and built wheels."""

from __future__ import annotations

import filecmp
import os
import re
import subprocess
from pathlib import Path

from llamakit.bundle.archive import Member, pack_folder
from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import FOLDER

CLONE = "run it in a clone: git clone REPOSITORY && cd llamakit && ./console.sh bundle"


def checkout_files(checkout: Path) -> tuple[list[Member], list[str]]:
    """The files that git knows, as they are now, and the names of new ones that it does not.

    What git ignores (secrets, models, everything made at run time) is in neither.

    Raises:
        BundleError: it is no clone.
    """
    known = _git(checkout, "ls-files", "-z").split("\0")
    new = _git(checkout, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
    members = [
        Member(name, checkout / name, "the kit")
        for name in known
        if name and not name.startswith(f"{FOLDER}/") and os.path.lexists(checkout / name)
    ]
    return members, [name for name in new if name]


def version_of(checkout: Path) -> str:
    """The tag or commit of the checkout, with ``-changed`` where files were edited since."""
    return _git(checkout, "describe", "--always", "--tags", "--dirty=-changed").strip()


def _git(checkout: Path, *arguments: str) -> str:
    # A checkout may be another user's, root's say; nothing of it is run here.
    command = ["git", "-c", f"safe.directory={checkout}", "-C", str(checkout), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise BundleError(
            "no git on this machine", "git, which knows the kit's files", "apt-get install git"
        ) from error
    except subprocess.CalledProcessError as error:
        raise BundleError(
            f"git says of {checkout}: {error.stderr.strip()}",
            "a clone, whose files git knows",
            CLONE,
        ) from error


def pack_collections(runtime: Path, folder: Path) -> Member:
    """Ansible's collections as one archive in ``folder``.

    Raises:
        BundleError: they are not here.
    """
    root = runtime / "collections"
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    if not files:
        raise BundleError(
            f"no collections in {root}", "those of requirements.yml", "./console.sh setup"
        )
    out = folder / "collections.tar"
    names = [f"collections/{file.relative_to(root)}" for file in files]
    pack_folder(runtime, out, [name for name in names if "__pycache__" not in name])
    return Member(f"{FOLDER}/collections.tar", out, "Ansible's collections")


def built_wheels(checkout: Path, runtime: Path, given: str, machine: str) -> list[Member]:
    """Wheels of llama-cpp-python, by kind of machine; one that was given fits any.

    Raises:
        BundleError: there is none.
    """
    pin = (checkout / "requirements" / "llama_cpp.txt").read_text(encoding="utf-8")
    version = re.findall(r"^llama-cpp-python==(\S+)", pin, re.MULTILINE)[0]
    pattern = f"llama_cpp_python-{version}-*_{machine}.whl"
    wheels = sorted(Path(given).glob(pattern)) if given else []
    found = [("any", wheel) for wheel in wheels]
    # A deployment keeps a copy of what it was given.
    found += [
        (wheel.parent.name, wheel)
        for wheel in sorted(runtime.glob(f"wheelhouse/*/{pattern}"))
        if not any(filecmp.cmp(wheel, ours, shallow=False) for ours in wheels)
    ]
    if not found:
        raise BundleError(
            f"no wheel of llama-cpp-python {version} in {runtime}/wheelhouse"
            + (f" or {given}" if given else ""),
            "one for each kind of host; it is compiled once, where there is a compiler",
            "./console.sh -l HOST install builds one on a host of the kind, ./console.sh install\n"
            "            one for this machine; or name a folder that has it: LLAMAKIT_WHEELHOUSE",
        )
    return [
        Member(f"{FOLDER}/wheelhouse/{kind}/{wheel.name}", wheel, f"llama-cpp-python for {kind}")
        for kind, wheel in found
    ]
