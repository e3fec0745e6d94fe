"""The graphics cards of this machine, their drivers and their device files."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SMI_SECONDS = 20.0
SMI_QUERY = "--query-gpu=name,compute_cap,memory.total"
PCI_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
# nvidia-uvm is made when a program first asks for CUDA, so these may come into being later.
NVIDIA_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
UVM = "/dev/nvidia-uvm"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card; ``architecture`` is what a compiler calls it: 90 (CUDA) or gfx1100 (ROCm)."""

    vendor: Literal["nvidia", "amd"]
    name: str
    architecture: str
    memory_bytes: int  # 0 when it is not told


@dataclass(frozen=True, slots=True)
class Graphics:
    """What there is of cards and drivers."""

    cards: frozenset[str] = frozenset()  # vendors on the PCI bus
    gpus: tuple[Gpu, ...] = ()  # those whose driver works
    nvidia_driver: str | None = None  # the version that the kernel runs
    nvidia_error: str | None = None  # why nvidia-smi does not work
    devices: tuple[str, ...] = ()  # device files that are there
    nvcc: bool = False

    def has(self, accelerator: str) -> bool:
        """True when llama.cpp built for that accelerator finds a card and a driver."""
        vendors = {gpu.vendor for gpu in self.gpus}
        if accelerator == "cuda":
            return "nvidia" in vendors
        if accelerator == "rocm":
            return "amd" in vendors
        return accelerator == "vulkan" and any("renderD" in device for device in self.devices)

    def detect(self) -> str:
        """What llama.cpp is built for here unless told otherwise: cuda, rocm or cpu.

        Vulkan is never guessed: the graphics of many processors know it and are slower than they.
        """
        return next((name for name in ("cuda", "rocm") if self.has(name)), "cpu")

    def architectures(self, accelerator: str) -> list[str]:
        """What to compile for, sorted and each once."""
        vendor = {"cuda": "nvidia", "rocm": "amd"}.get(accelerator)
        return sorted({gpu.architecture for gpu in self.gpus if gpu.vendor == vendor})

    def memory_bytes(self, accelerator: str) -> int:
        """The memory of all cards that the accelerator uses; 0 when it is not known."""
        vendor = {"cuda": "nvidia", "rocm": "amd"}.get(accelerator)
        return sum(gpu.memory_bytes for gpu in self.gpus if gpu.vendor == vendor)

    def devices_for(self, accelerator: str) -> list[str]:
        """The device files that a service needs, and no others."""
        nvidia = [device for device in self.devices if device.startswith("/dev/nvidia")]
        render = [device for device in self.devices if device.startswith("/dev/dri/renderD")]
        if nvidia:
            nvidia = sorted({*nvidia, *(f"/dev/{name}" for name in NVIDIA_DEVICES[:3])})
        if accelerator == "cuda":
            return nvidia
        if accelerator == "rocm":
            return ["/dev/kfd", *render]
        return [*render, *nvidia] if accelerator == "vulkan" else []


def find_graphics(root: Path = Path("/")) -> Graphics:
    """Asks the kernel, and nvidia-smi where there is one (it may take seconds)."""
    cards = frozenset(_cards(root))
    nvidia: tuple[Gpu, ...] = ()
    error = None
    driver = _driver(root)
    # Without card and driver there is nothing to ask.
    if driver is not None or "nvidia" in cards:
        nvidia, error = _ask_smi()
    return Graphics(
        cards=cards,
        gpus=(*nvidia, *_amd(root)),
        nvidia_driver=driver,
        nvidia_error=error,
        devices=tuple(_devices(root)),
        nvcc=shutil.which("nvcc") is not None or (root / "usr/local/cuda/bin/nvcc").exists(),
    )


def _cards(root: Path) -> list[str]:
    found = []
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            if (device / "class").read_text().startswith("0x03"):
                found.append(PCI_VENDORS.get((device / "vendor").read_text().strip(), "other"))
        except OSError:
            continue
    return found


def _driver(root: Path) -> str | None:
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else "unknown"


def _ask_smi() -> tuple[tuple[Gpu, ...], str | None]:
    try:
        result = subprocess.run(
            ["nvidia-smi", SMI_QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SMI_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return (), "there is no nvidia-smi"
    except subprocess.TimeoutExpired:
        return (), f"nvidia-smi does not answer within {SMI_SECONDS:.0f} s"
    if result.returncode != 0:
        said = " ".join((result.stdout + result.stderr).split())
        return (), f"nvidia-smi says: {said[:160]}"
    return read_smi(result.stdout), None


def read_smi(output: str) -> tuple[Gpu, ...]:
    """Lines like ``NVIDIA H200, 9.0, 143771``: name, compute capability, memory in MiB."""
    gpus = []
    for row in csv.reader(output.splitlines(), skipinitialspace=True):
        if len(row) == 3:
            name, capability, memory = (field.strip() for field in row)
            size = int(memory) << 20 if memory.isdecimal() else 0
            gpus.append(Gpu("nvidia", name, capability.replace(".", ""), size))
    return tuple(gpus)


def _amd(root: Path) -> list[Gpu]:
    """The cards of AMD's compute driver, by what the kernel tells of them."""
    gpus = []
    for node in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*")):
        try:
            lines = (node / "properties").read_text().splitlines()
            properties = dict(line.split(None, 1) for line in lines if line.strip())
            version = int(properties.get("gfx_target_version", 0))
            if version == 0:  # a processor
                continue
            name = (node / "name").read_text().strip()
            banks = (node / "mem_banks").glob("*/properties")
            sizes = re.findall(
                r"^size_in_bytes (\d+)", "\n".join(bank.read_text() for bank in banks), re.MULTILINE
            )
        except (OSError, ValueError):
            continue
        gpus.append(Gpu("amd", name or "AMD", gfx_name(version), sum(map(int, sizes))))
    return gpus


def gfx_name(version: int) -> str:
    """90010 is gfx90a, 110000 is gfx1100: two digits each of minor version and step, in hex."""
    major, minor, step = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{step:x}"


def _devices(root: Path) -> list[str]:
    folder = root / "dev"
    found = [*folder.glob("nvidia[0-9]*"), *folder.glob("dri/renderD*"), folder / "kfd"]
    found += [folder / name for name in NVIDIA_DEVICES]
    return [f"/{path.relative_to(root)}" for path in sorted(found) if path.exists()]
