"""The command ``unpack-bundle``: a bundle is checked, and its models taken to the models folder.

It runs before anything is installed, so it needs Python's own library alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path

from llamakit.arguments import Commands
from llamakit.bundle.check import check_files, check_use, own_files
from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import FOLDER, LOCKS, Manifest, read_manifest
from llamakit.fetch.progress import Progress


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``unpack-bundle`` to the kit's command line."""
    parser = commands.add_parser("unpack-bundle", help="check a bundle, and take its models")
    parser.add_argument("--checkout", type=Path, default=Path())
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or 1 when the bundle is not whole or not for this machine."""
    try:
        manifest = read_manifest(options.checkout)
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        check_use(options.checkout, manifest, python, platform.machine(), LOCKS)
        files = own_files(manifest)
        progress = Progress("bundle")
        progress.total = sum(file.size for file in files)
        check_files(options.checkout, files, progress.update)
        progress.finish(progress.total)
        take_models(options.checkout, manifest, options.models_dir)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def take_models(checkout: Path, manifest: Manifest, models_dir: Path) -> None:
    """Links the models to where they are run from, or copies them there; what is there stays."""
    for file in manifest.of(f"{FOLDER}/models/"):
        target = models_dir / Path(file.path).relative_to(f"{FOLDER}/models")
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        part.unlink(missing_ok=True)
        try:
            os.link(checkout / file.path, part)
        except OSError:
            try:
                shutil.copyfile(checkout / file.path, part)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise BundleError(
                    f"{file.path} could not be copied to {models_dir}: {error.strerror}",
                    "room for the bundle's models",
                    f"make room there (df -h {models_dir}), then run the same command again",
                ) from error
        part.replace(target)
