"""Downloads the wheels of the locks for Pythons and machines that need not be this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from llamakit.bundle.archive import pack_folder
from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import LOCKS, packages

# Debian 12, the oldest distribution that the kit deploys, has this libc.
GLIBC = 36
OLDEST_GLIBC = 5
PIP = [sys.executable, "-m", "pip"]
QUIET = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--require-hashes"]


def requirements_for(lock: str, python: str, machine: str) -> str:
    """The part of a lock that applies to a Python on Linux: pip itself would look at its own."""
    environment = {
        "python_version": python,
        # The last of its kind: locks tell apart minor versions, not patches.
        "python_full_version": f"{python}.99",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    kept = []
    for entry in _entries(lock):
        requirement = Requirement(entry.split(" --hash", 1)[0])
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            hashes = [word for word in entry.split() if word.startswith("--hash=")]
            kept.append(" ".join([str(requirement), *hashes]))
    return "\n".join(kept) + "\n"


def _entries(lock: str) -> list[str]:
    """Each requirement of a lock with its hashes, on one line."""
    lines = [line for line in lock.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def download_packages(checkout: Path, folder: Path, python: str, machine: str) -> list[str]:
    """Packs the wheels of every lock for one Python; returns their paths below ``folder``.

    Raises:
        BundleError: a package can't be had, or has no wheel for it.
    """
    made = []
    for lock in LOCKS:
        content = folder / "packages" / python / lock
        wheels = content / "wheels"
        wheels.mkdir(parents=True)
        for name in (lock, "pip"):
            text = (checkout / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
            chosen = wheels / "requirements"
            chosen.write_text(requirements_for(text, python, machine), encoding="utf-8")
            _pip(
                ["download", "--dest", str(wheels), *_target(python, machine), "-r", str(chosen)],
                f"requirements/{name}.txt for Python {python} on {machine}",
            )
            chosen.unlink()
        # Python runs pip from it, by a name that needs no version.
        next(wheels.glob("pip-*.whl")).rename(content / "pip.zip")
        out = folder / packages(python, lock)
        out.parent.mkdir(parents=True, exist_ok=True)
        pack_folder(
            content, out, ["pip.zip", *(f"wheels/{file.name}" for file in wheels.iterdir())]
        )
        made.append(packages(python, lock))
    return made


def download_source(checkout: Path, folder: Path, python: str) -> Path:
    """The sources of llama-cpp-python; ``python`` is this one, and its build wheels are here.

    Raises:
        BundleError: they can't be had.
    """
    tools, source = folder / "tools", folder / "source"
    lock, pin = (checkout / "requirements" / name for name in ("build.txt", "llama_cpp.txt"))
    wheels = folder / "packages" / python / "build" / "wheels"
    _pip(
        ["install", "--no-index", f"--find-links={wheels}", f"--target={tools}", f"-r{lock}"],
        "requirements/build.txt",
    )
    # pip asks a source for its metadata, which takes the build tools, and none but the locked ones.
    _pip(
        ["download", "--no-build-isolation", "--no-binary=:all:", f"--dest={source}", f"-r{pin}"],
        "requirements/llama_cpp.txt",
        {"PYTHONPATH": str(tools), "PATH": f"{tools}/bin:{os.environ['PATH']}"},
    )
    return next(source.iterdir())


def _target(python: str, machine: str) -> list[str]:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(OLDEST_GLIBC, GLIBC + 1)]
    arguments = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        arguments += ["--abi", abi]
    for platform in [*platforms, f"linux_{machine}"]:
        arguments += ["--platform", platform]
    return arguments


def _pip(arguments: list[str], what: str, environment: dict[str, str] | None = None) -> None:
    run = subprocess.run(
        [*PIP, arguments[0], *QUIET, *arguments[1:]],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        said = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        raise BundleError(
            f"pip could not fetch {what}: {' '.join(said[-3:]) or run.stderr.strip()[-300:]}",
            "a wheel of each package, from a package index",
            "see whether the index can be reached (pip config list) and has it, and try again",
        )
