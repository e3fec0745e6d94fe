"""The command ``bundle``, which makes one."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import platform
import re
import signal
import sys
import tempfile
from pathlib import Path

from llamakit.arguments import Commands
from llamakit.bundle.archive import Member, check_room, write_archive
from llamakit.bundle.contents import built_wheels, checkout_files, pack_collections, version_of
from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import FOLDER, LOCKS, Manifest
from llamakit.bundle.models import Chosen, choose_models
from llamakit.bundle.portable import find_library, needed_glibc, with_library
from llamakit.bundle.wheels import GLIBC, download_packages, download_source
from llamakit.config.entries import Config
from llamakit.config.models_file import load_models
from llamakit.fetch.errors import FetchError
from llamakit.fetch.progress import Progress
from llamakit.quantities import size

PYTHONS = "3.11,3.12,3.13"  # Debian 12, Ubuntu 24.04, Debian 13
OWN_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
# The wheels for one Python, and the sources of llama-cpp-python, take about this much (bytes).
PACKAGES_SIZE = 130_000_000
SOURCE_SIZE = 80_000_000


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``bundle`` to the kit's command line."""
    parser = commands.add_parser("bundle", help="one archive to deploy from without internet")
    parser.add_argument("--checkout", type=Path, default=Path(), help=argparse.SUPPRESS)
    parser.add_argument("--from", dest="place", type=Path, default=Path(), help=argparse.SUPPRESS)
    parser.add_argument("--model", action="append", default=[], help="id, alias or number; repeats")
    parser.add_argument("--python", default=PYTHONS, help=f"of the hosts (default: {PYTHONS})")
    parser.add_argument("--out", type=Path, help="the archive; it unpacks to a folder of its name")
    parser.add_argument("--models", type=Path, default=Path("config/models.yaml"))
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 0, 1 when the bundle can't be made, or that of a fetch that failed."""
    # A termination is to leave as little behind as an interruption.
    signal.signal(signal.SIGTERM, _end)
    try:
        return make(options)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    except FetchError as error:
        print(error, file=sys.stderr)
        return error.status


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def make(options: argparse.Namespace) -> int:
    """Makes the archive.

    Raises:
        BundleError: what is missing.
        FetchError: a model can't be had.
    """
    checkout = options.checkout.resolve()
    runtime, machine = checkout / "runtime", platform.machine()
    pythons = versions(options.python)
    version = version_of(checkout)
    out = (options.place / (options.out or f"llamakit-bundle-{version}.tar")).absolute()
    if out.suffix != ".tar":
        out = out.with_name(f"{out.name}.tar")
    kit, untracked = checkout_files(checkout)
    wheels = built_wheels(checkout, runtime, os.environ.get("LLAMAKIT_WHEELHOUSE", ""), machine)
    config = Config(options.models, tuple(load_models(options.models)))
    chosen = choose_models(config, options.models_dir, options.model)
    ready = [*kit, *wheels, *chosen.members]
    known = sum(member.source.lstat().st_size for member in ready)
    check_room(out, known + SOURCE_SIZE + PACKAGES_SIZE * len(pythons))

    with tempfile.TemporaryDirectory(prefix="bundle-", dir=runtime) as temporary:
        folder = Path(temporary)
        members = [*kit, pack_collections(runtime, folder)]
        for python in pythons:
            say(f"==> Fetch the packages for Python {python} on {machine}")
            members += [
                Member(path, folder / path, f"{Path(path).stem} on Python {python}")
                for path in download_packages(checkout, folder, python, machine)
            ]
        wheels = [carry_library(member, machine, folder) for member in wheels]
        say("==> Fetch the sources of llama-cpp-python, for hosts that no wheel here fits")
        source = download_source(checkout, folder, OWN_PYTHON)
        members += [
            Member(f"{FOLDER}/source/{source.name}", source, "to compile llama-cpp-python"),
            *wheels,
            *chosen.members,
        ]
        manifest = Manifest(
            version,
            machine,
            pythons,
            {lock: _lock_digest(checkout, lock) for lock in LOCKS},
            {name: [member.path for member in files] for name, files in chosen.models.items()},
            [*chosen.left_out, *(f"{name}: git does not know it" for name in untracked)],
        )
        say(f"==> Write {out}")
        progress = Progress(out.name)
        progress.total = sum(member.source.lstat().st_size for member in members)
        write_archive(out, members, manifest, progress.update)
        progress.finish(progress.total)
    tell(out, manifest, wheels, chosen, untracked)
    return 0


def carry_library(member: Member, machine: str, folder: Path) -> Member:
    """The wheel with the library that bare hosts lack, where this machine's one fits them."""
    library = find_library(machine)
    if library is None or needed_glibc(library.read_bytes()) > GLIBC:
        say(f"  {member.source.name}: hosts need the package libgomp1, which is not here to pack")
        return member
    out = folder / member.path
    out.parent.mkdir(parents=True, exist_ok=True)
    with_library(member.source, library, out)
    return dataclasses.replace(member, source=out)


def versions(given: str) -> list[str]:
    """The Pythons to pack for, this one among them: whoever unpacks it likely has the same.

    Raises:
        BundleError: what was given is no list of versions.
    """
    names = [name.strip() for name in given.split(",") if name.strip()]
    wrong = [name for name in names if not re.fullmatch(r"3\.(1[1-9]|[2-9]\d)", name)]
    if wrong or not names:
        raise BundleError(
            f"--python {given}", "versions from 3.11 on, with commas", f"--python {PYTHONS}"
        )
    return sorted({*names, OWN_PYTHON}, key=lambda name: int(name.split(".")[1]))


def tell(
    out: Path, manifest: Manifest, wheels: list[Member], chosen: Chosen, untracked: list[str]
) -> None:
    """Says what is in the archive, what is not, and what to do with it."""
    kinds = sorted({Path(member.path).parent.name for member in wheels})
    say(f"\n{out}: {size(out.stat().st_size)}")
    say(f"  hosts:       {manifest.machine} with Python {', '.join(manifest.python)}")
    say(f"  llama.cpp:   {', '.join(kinds)}; for other kinds the host needs compilers")
    say(f"  models:      {', '.join(chosen.models) or 'none'}")
    for line in chosen.left_out:
        say(f"  left out:    {line}")
    if untracked:
        names = ", ".join(untracked[:5]) + (", …" if len(untracked) > 5 else "")
        say(f"  left out:    files that git does not know: {names}")
    say("\nWhere there is no internet:")
    say(f"  tar -xf {out.name} && cd {out.stem} && ./console.sh start      (or -l HOST start)")


def say(text: str) -> None:
    """Prints a line at once, so that it stands before what pip has to say."""
    print(text, file=sys.stderr, flush=True)


def _lock_digest(checkout: Path, lock: str) -> str:
    return hashlib.sha256((checkout / "requirements" / f"{lock}.txt").read_bytes()).hexdigest()
