"""Compares a machine with what is to run on it. Pure: it looks at nothing itself."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llamakit.config.problems import Problem
from llamakit.models.memory import PROCESS_BYTES
from llamakit.preflight.facts import Disk, Facts
from llamakit.preflight.gpu import UVM
from llamakit.preflight.wants import Wants
from llamakit.quantities import size

# The environments together, measured, and the room that compiling llama-cpp-python takes.
INSTALL_BYTES = 1_500_000_000
COMPILE_BYTES = {"cpu": 2_000_000_000, "cuda": 6_000_000_000}
# What logs, the database and a restart need to be able to go on.
RESERVE_BYTES = 200_000_000

MINIMUM_PYTHON = (3, 11)
MINIMUM_SYSTEMD = 250  # LoadCredential= for services of other users
TESTED_DEBIAN = ("12", "13")
MINIMUM_UBUNTU = (24, 4)

Plan = Mapping[str, Any]
Found = Iterator[Problem | str]  # a text is a warning


def check(wants: Wants, facts: Facts, plan: Plan | None) -> tuple[list[Problem], list[str]]:
    """Everything that is in the way, and what people should know; without a plan all but models."""
    checks: list[Callable[[Wants, Facts], Found]] = [python, graphics, processor, exposure]
    if wants.place == "host":
        checks += [distribution, systemd, database]
    found = [each for function in checks for each in function(wants, facts)]
    models = [model for model in plan["models"] if model["running"]] if plan else []
    found += [*memory(facts, models), *disk(facts, models)]
    problems = [each for each in found if isinstance(each, Problem)]
    return problems, [each for each in found if isinstance(each, str)]


def python(_wants: Wants, facts: Facts) -> Found:
    """The environments are made with the Python that runs us."""
    if facts.python < MINIMUM_PYTHON:
        yield Problem(
            "Python",
            f"{facts.python[0]}.{facts.python[1]}",
            "Python 3.11 or newer",
            "install a newer one and set llamakit_python to its path",
        )


def distribution(wants: Wants, facts: Facts) -> Found:
    """Debian 12 and 13, and Ubuntu from 24.04 on."""
    if facts.distribution == "debian" and facts.version in TESTED_DEBIAN:
        return
    if facts.distribution == "ubuntu" and _numbers(facts.version) >= MINIMUM_UBUNTU:
        return
    name = f"{facts.distribution} {facts.version}".strip()
    if wants.untested_distribution:
        yield f"{name} is not a distribution that llamakit is tested on."
        return
    yield Problem(
        "the distribution",
        name,
        "Debian 12 or 13, or Ubuntu 24.04 or newer",
        "reinstall the host with one of these, or set llamakit_untested_distribution: true",
    )


def systemd(_wants: Wants, facts: Facts) -> Found:
    """It must be what runs the host, and know the directives of our units."""
    if facts.systemd is None:
        yield Problem(
            "the service manager",
            "a host that was not booted with systemd",
            f"systemd {MINIMUM_SYSTEMD} or newer as process 1",
            "use a host or an image with systemd; in a container, run /lib/systemd/systemd",
        )
    elif facts.systemd < MINIMUM_SYSTEMD:
        yield Problem(
            "systemd",
            f"version {facts.systemd}",
            f"version {MINIMUM_SYSTEMD} or newer",
            "upgrade the distribution",
        )


def graphics(wants: Wants, facts: Facts) -> Found:
    """A GPU host needs a card and a driver that fit what llama.cpp is built for."""
    gpu, accelerator = facts.graphics, facts.accelerator
    if accelerator == "cpu":
        if wants.gpu_group:
            yield (
                "the host is in the group gpu, but llama_server_accelerator is cpu: every model "
                "runs on the processor, which is 10 to 100 times slower."
            )
        return
    where = f"the GPU, for {accelerator}"
    choose = "or set llama_server_accelerator: cpu, or move the host to the group cpu"
    if wants.place == "local":
        choose = "or set LLAMAKIT_ACCELERATOR=cpu in config/local.env"
    if gpu.has(accelerator):
        if accelerator == "cuda" and UVM not in gpu.devices:
            yield (
                f"{UVM} is not there yet, and a service may not make it: without it models run on "
                "the CPU. As root: nvidia-modprobe -u -c0, at each boot (nvidia-persistenced does)."
            )
        if accelerator == "cuda" and not facts.installed and not gpu.nvcc:
            yield (
                "there is no CUDA compiler (nvcc) here: llama-cpp-python can't be built on this "
                "machine, so a wheel for it must be in the wheelhouse."
            )
        return
    if accelerator == "cuda":
        yield _nvidia(facts, where, choose)
    elif accelerator == "rocm":
        yield Problem(
            where,
            "no card that AMD's compute driver (/dev/kfd) knows",
            "a supported AMD card, and the amdgpu driver with ROCm",
            f"install ROCm and reboot, {choose}",
        )
    else:
        yield Problem(
            where,
            "no /dev/dri/renderD*: no driver gives access to a card",
            "a card with a Vulkan driver",
            f"install the driver (Debian: mesa-vulkan-drivers or nvidia-driver), {choose}",
        )


def _nvidia(facts: Facts, where: str, choose: str) -> Problem:
    gpu = facts.graphics
    said = gpu.nvidia_error or ""
    if "mismatch" in said:
        return Problem(
            where,
            f"the kernel runs NVIDIA's driver {gpu.nvidia_driver}, and its libraries are of "
            f"another version ({said})",
            "driver and libraries of one version",
            "reboot the host: the driver was upgraded and the old one is still loaded",
        )
    if gpu.nvidia_driver is not None:
        return Problem(
            where,
            f"NVIDIA's driver {gpu.nvidia_driver} is loaded, but {said or 'no card answers'}",
            "nvidia-smi lists the card",
            f"install the driver's programs (Debian: nvidia-smi) of the same version, {choose}",
        )
    if "nvidia" in gpu.cards:
        return Problem(
            where,
            "an NVIDIA card, but its driver is not loaded",
            "a loaded driver (/proc/driver/nvidia/version)",
            f"install it (Debian: apt-get install nvidia-driver, from non-free) and reboot, "
            f"{choose}",
        )
    return Problem(
        where,
        "no NVIDIA card on the PCI bus, and no driver",
        "an NVIDIA card with its driver",
        f"check that the card is passed through to this machine, {choose}",
    )


def database(wants: Wants, facts: Facts) -> Found:
    """A cluster of the other kind has the users and keys, and a second one would start without."""
    for source, data in facts.clusters.items():
        if wants.postgres and source != wants.postgres:
            yield Problem(
                f"PostgreSQL, postgres_source: {wants.postgres}",
                f"a cluster of postgres_source: {source} in {data}, with the users and keys",
                "the kind of PostgreSQL that the host has",
                f"keep it with postgres_source: {source} in inventory/host_vars, or move with a "
                'backup and a restore: docs/operations.md, "From one PostgreSQL to the other"',
            )


def processor(_wants: Wants, facts: Facts) -> Found:
    """Wheels for x86-64 are built for AVX2; without it the server ends at once."""
    if facts.machine == "x86_64" and not facts.avx2:
        yield (
            "the processor has no AVX2: a wheel that was built elsewhere ends with an illegal "
            "instruction. Build one here with llama_server_cmake_flags: -DGGML_NATIVE=ON."
        )


def exposure(wants: Wants, _facts: Facts) -> Found:
    """Keys that cross a network must not do so in clear."""
    host, port = wants.services.get("proxy", ("127.0.0.1", 0))
    if not wants.tls and not is_loopback(host):
        setting = "auth_proxy_tls" if wants.place == "host" else "LLAMA_PROXY_HOST=127.0.0.1"
        yield (
            f"PLAIN HTTP ON THE NETWORK: the endpoint listens on {host}:{port} without TLS, so "
            "that every key and every prompt can be read on the way. "
            f"Set {setting}, or put a TLS proxy before it."
        )
    if not is_loopback(wants.bind_host):
        yield (
            f"the model servers listen on {wants.bind_host}, not on the loopback: they speak plain "
            "HTTP, and whoever reads their key on the way goes around every limit."
        )


def is_loopback(host: str) -> bool:
    """True for an address that other machines can't reach; a name counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def memory(facts: Facts, models: list[Any]) -> Found:
    """The models that run together must fit: into the cards where they are put, else into RAM."""
    on_gpu = [model for model in models if _all_on_gpu(facts, model)]
    card_needs = sum(model["memory_bytes"] - PROCESS_BYTES for model in on_gpu)
    cards = facts.graphics.memory_bytes(facts.accelerator)
    if card_needs > cards > 0:
        yield Problem(
            "the memory of the GPU",
            f"{size(cards)}",
            f"about {size(card_needs)} for {_names(on_gpu)}",
            "set a smaller n_ctx or n_gpu_layers in config/models.yaml, or choose a smaller model",
        )
    needed = sum(PROCESS_BYTES if model in on_gpu else model["memory_bytes"] for model in models)
    if needed > facts.memory_total:
        yield Problem(
            "the memory",
            f"{size(facts.memory_total)}",
            f"about {size(needed)} for {_names(models)}",
            "set a smaller n_ctx in config/models.yaml, choose a smaller model, or run fewer of "
            "them (mode single)",
        )
    elif needed > facts.memory_available:
        yield (
            f"memory: {_names(models)} need about {size(needed)}, and of "
            f"{size(facts.memory_total)} {size(facts.memory_available)} are free: expect swapping."
        )


def _all_on_gpu(facts: Facts, model: Mapping[str, Any]) -> bool:
    return facts.accelerator != "cpu" and model["settings"].get("n_gpu_layers") == -1


def disk(facts: Facts, models: list[Any]) -> Found:
    """Room for what is downloaded and installed, by file system."""
    needs: dict[int, list[tuple[int, str]]] = defaultdict(list)
    disks: dict[int, Disk] = {}
    for place, amount, purpose in (
        (facts.models_disk, sum(model["missing_bytes"] for model in models), "models to download"),
        (facts.code_disk, 0 if facts.installed else INSTALL_BYTES, "the installation"),
        (facts.state_disk, RESERVE_BYTES, "logs and the database"),
    ):
        disks.setdefault(place.device, place)
        if amount:
            needs[place.device].append((amount, purpose))
    for device, wanted in needs.items():
        free, needed = disks[device].free, sum(amount for amount, _ in wanted)
        folder = disks[device].folder
        building = 0
        if device == facts.code_disk.device and not facts.installed:
            building = COMPILE_BYTES.get(facts.accelerator, COMPILE_BYTES["cpu"])
        if free < needed:
            parts = ", ".join(f"{size(amount)} for {purpose}" for amount, purpose in wanted)
            yield Problem(
                f"the disk of {folder}",
                f"{size(free)} free",
                f"at least {size(needed)}: {parts}",
                f"make room (df -h {folder}), or put a larger disk there",
            )
        elif free < needed + building:
            yield (
                f"disk: {size(free)} free on {folder}; compiling llama-cpp-python there needs "
                f"{size(needed + building)}. With a wheel of it, it is enough."
            )


def _names(models: list[Any]) -> str:
    names = [model["id"] for model in models]
    return " and ".join(names) if len(names) < 4 else f"{len(names)} models"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
