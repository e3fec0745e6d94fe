"""What this machine is, as far as the deployment depends on it."""

from __future__ import annotations

import contextlib
import grp
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamakit.preflight.clusters import find_clusters
from llamakit.preflight.gpu import Graphics, find_graphics
from llamakit.preflight.wants import Wants
from llamakit.services.memory import available_memory, private_memory, total_memory
from llamakit.services.running import running_services

ASK_SECONDS = 10.0
CMAKE_FLAGS = {
    "cpu": "",
    "cuda": "-DGGML_CUDA=ON",
    "vulkan": "-DGGML_VULKAN=ON",
    "rocm": "-DGGML_HIP=ON",
}
ARCHITECTURE_FLAGS = {"cuda": "-DCMAKE_CUDA_ARCHITECTURES=", "rocm": "-DAMDGPU_TARGETS="}


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: where we look at it, and its free bytes."""

    folder: Path
    device: int
    free: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The machine. Sizes are bytes."""

    distribution: str
    version: str
    python: tuple[int, int]
    interpreter: str  # an environment that another one made can't be run with it
    systemd: int | None  # None: it is not what the machine was booted with
    machine: str  # x86_64, aarch64
    avx2: bool
    memory_total: int
    memory_available: int  # with what our own services have taken
    accelerator: str
    graphics: Graphics = field(default_factory=Graphics)
    device_groups: tuple[str, ...] = ()  # whoever is in them may use the devices
    packages_missing: tuple[str, ...] = ()
    clusters: Mapping[str, Path] = field(default_factory=dict)  # by their postgres_source
    installed: bool = False  # the model server's environment is there
    models_disk: Disk = Disk(Path("/"), 0, 0)
    code_disk: Disk = Disk(Path("/"), 0, 0)
    state_disk: Disk = Disk(Path("/"), 0, 0)

    @property
    def kind(self) -> str:
        """What a wheel of llama-cpp-python fits: cpu-x86_64-debian12, cuda90-x86_64-debian12."""
        built_for = "_".join(self.graphics.architectures(self.accelerator))
        return f"{self.accelerator}{built_for}-{self.machine}-{self.distribution}{self.version}"

    @property
    def cmake_flags(self) -> str:
        """How llama.cpp is built for this machine and its kind; any AVX2 processor can run it."""
        flags = ["-DGGML_NATIVE=OFF", CMAKE_FLAGS[self.accelerator]]
        if architectures := self.graphics.architectures(self.accelerator):
            flags.append(ARCHITECTURE_FLAGS[self.accelerator] + ";".join(architectures))
        return " ".join(filter(None, flags))

    def summary(self) -> dict[str, Any]:
        """What the deployment needs to know, as JSON-able data."""
        return {
            "distribution": self.distribution,
            "version": self.version,
            "kind": self.kind,
            "accelerator": self.accelerator,
            "cmake_flags": self.cmake_flags,
            "devices": self.graphics.devices_for(self.accelerator),
            "groups": list(self.device_groups),
            "gpus": [gpu.name for gpu in self.graphics.gpus],
            "python": ".".join(map(str, self.python)),
            "interpreter": self.interpreter,
            "systemd": self.systemd,
            "memory_bytes": self.memory_total,
            "packages_missing": list(self.packages_missing),
        }


def gather(wants: Wants) -> Facts:
    """Looks at this machine; changes nothing."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    graphics = find_graphics()
    accelerator = _accelerator(wants, graphics)
    environments = [wants.code_dir / "llama_server", wants.state_dir / "llama_server"]
    return Facts(
        distribution=release.get("ID", "linux"),
        version=release.get("VERSION_ID", release.get("VERSION_CODENAME", "")),
        python=sys.version_info[:2],
        # From within a virtual environment too, this is the installation behind it.
        interpreter=f"{sys.implementation.cache_tag}{sys.abiflags} {sys.base_prefix}",
        systemd=_systemd(),
        machine=platform.machine(),
        avx2=_has_avx2(),
        memory_total=total_memory(),
        memory_available=available_memory() + _taken_by_models(wants.state_dir),
        accelerator=accelerator,
        graphics=graphics,
        device_groups=tuple(owning_groups(map(Path, graphics.devices_for(accelerator)))),
        packages_missing=tuple(_missing(wants.packages)),
        clusters=find_clusters(wants.postgres_data_dir) if wants.place == "host" else {},
        installed=any(any(folder.glob("*/.complete")) for folder in environments),
        models_disk=_disk(wants.models_dir),
        code_disk=_disk(wants.code_dir),
        state_disk=_disk(wants.state_dir),
    )


def _accelerator(wants: Wants, graphics: Graphics) -> str:
    """The one asked for, else what the card needs, and cuda where a GPU host has none.

    Then the missing card is told as a problem, instead of deploying to the CPU without a word.
    """
    if wants.accelerator != "auto":
        return wants.accelerator
    found = graphics.detect()
    return "cuda" if found == "cpu" and wants.gpu_group else found


def owning_groups(devices: Iterable[Path]) -> list[str]:
    """The groups that the device files belong to, where that is not root's."""
    found = set()
    for device in devices:
        with contextlib.suppress(OSError, KeyError):
            if gid := device.stat().st_gid:
                found.add(grp.getgrgid(gid).gr_name)
    return sorted(found)


def _systemd() -> int | None:
    if not Path("/run/systemd/system").is_dir():
        return None
    try:
        result = subprocess.run(
            ["systemctl", "--version"],
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"systemd (\d+)", result.stdout)
    return int(match[1]) if match else None


def _has_avx2() -> bool:
    try:
        return " avx2" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def _missing(packages: Sequence[str]) -> list[str]:
    """Those of the distribution's packages that are not installed; none where dpkg is unknown."""
    if not packages or shutil.which("dpkg-query") is None:
        return []
    result = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        timeout=ASK_SECONDS,
        check=False,
    )
    installed = {
        name for name, _, state in (line.partition(" ") for line in result.stdout.splitlines())
        if state == "installed"
    }  # fmt: skip
    return [name for name in packages if name not in installed]


def _disk(folder: Path) -> Disk:
    """The file system of the folder, or of the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return Disk(folder, folder.stat().st_dev, shutil.disk_usage(folder).free)


def _taken_by_models(state_dir: Path) -> int:
    """Bytes that our model servers give back when they are replaced."""
    services = running_services(state_dir)
    return sum(private_memory(service["pid"]) for service in services if service["kind"] == "model")
