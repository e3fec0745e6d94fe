"""Checks of what is needed to install: Python, a wheel or a compiler, and the processor."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from llamakit.doctor.finding import Finding, Where
from llamakit.engines import engines

MINIMUM_PYTHON = (3, 11)
COMPILERS = {
    "debian": "apt-get install build-essential",
    "rhel": "dnf install gcc-c++ make",
    "suse": "zypper install gcc-c++ make",
    "arch": "pacman -S base-devel",
    "alpine": "apk add build-base",
}


def python(_where: Where) -> Iterator[Finding]:
    """The Python that runs us, which is the one that the environments are made with."""
    found = platform.python_version()
    if sys.version_info < MINIMUM_PYTHON:
        yield Finding("fail", "python", found, "install Python 3.11 or newer")
    else:
        yield Finding("ok", "python", found)


def wheel_or_compiler(where: Where) -> Iterator[Finding]:
    """An engine comes from the wheelhouse, or is compiled, unless it is installed already."""
    given = Path(os.environ.get("LLAMAKIT_WHEELHOUSE") or where.state_dir / "wheelhouse")
    own = where.state_dir / "wheelhouse"  # with a folder an accelerator
    for engine in engines().values():
        name, version = engine.requirement.split("==")
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        wheels = [*given.glob(pattern), *own.glob(f"*/{pattern}")]
        if any((where.state_dir / "llama_server").glob("*/.complete")):
            yield Finding("ok", "engine", f"{name} is installed")
        elif wheels:
            yield Finding("ok", "engine", f"{wheels[0].name} in {wheels[0].parent}")
        elif shutil.which("gcc") and shutil.which("g++"):
            found = f"no wheel of {name} {version}; it will be compiled (some minutes)"
            yield Finding("ok", "engine", found)
        else:
            found = f"no wheel of {name} {version} in {given}, and no gcc and g++"
            remedy = f"as root: {compiler_command()}; or put a wheel there (LLAMAKIT_WHEELHOUSE)"
            yield Finding("fail", "engine", found, remedy)


def compiler_command() -> str:
    """The command that installs a C++ compiler on this distribution."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    family = f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".replace("fedora", "rhel")
    for name, command in COMPILERS.items():
        if name in family.replace("ubuntu", "debian"):
            return command
    return "install a C++ compiler and make"


def processor(_where: Where) -> Iterator[Finding]:
    """CPU wheels are built for AVX2; without it the model server dies of an illegal instruction."""
    if platform.machine() not in ("x86_64", "AMD64"):
        yield Finding("ok", "processor", platform.machine())
        return
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    cores = len(os.sched_getaffinity(0))
    if " avx2" in flags:
        yield Finding("ok", "processor", f"{cores} cores with AVX2")
    else:
        remedy = "build llama-cpp-python on this machine: move its wheel out of the wheelhouse"
        yield Finding("warn", "processor", f"{cores} cores without AVX2", remedy)


def graphics(where: Where) -> Iterator[Finding]:
    """A GPU is of use only to a build that was made for it."""
    nvidia = Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
    amd = Path("/dev/kfd").exists()
    if not nvidia and not amd:
        yield Finding("ok", "gpu", "none; the CPU is used")
        return
    kind, setting = ("NVIDIA", "cuda") if nvidia else ("AMD", "rocm")
    libraries = [path.name for path in (where.state_dir / "llama_server").glob("**/libggml-*.so")]
    wanted = "cuda" if nvidia else "hip"
    if not libraries:
        yield Finding("ok", "gpu", f"{kind}; the engine is not installed yet")
    elif any(wanted in name or "vulkan" in name for name in libraries):
        yield Finding("ok", "gpu", f"{kind}, and the engine was built for it")
    else:
        yield Finding(
            "warn",
            "gpu",
            f"{kind}, but the engine was built for the CPU",
            f"install the driver's toolkit, write LLAMAKIT_ACCELERATOR={setting} into "
            "config/local.env, and start again (docs/configuration.md, GPU)",
        )


CHECKS = (python, wheel_or_compiler, processor, graphics)
