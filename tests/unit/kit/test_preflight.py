"""The checks of a machine against a plan, on machines that are only described."""

from __future__ import annotations

import dataclasses
import grp
import os
from pathlib import Path
from typing import Any

import pytest

from llamakit.preflight.checks import INSTALL_BYTES, RESERVE_BYTES, check
from llamakit.preflight.facts import Disk, Facts, owning_groups
from llamakit.preflight.gpu import Gpu, Graphics, find_graphics, gfx_name, read_smi
from llamakit.preflight.wants import Wants

GB = 1_000_000_000
ANYWHERE = "0.0.0.0"  # noqa: S104 - what the checks warn of
H200 = Gpu("nvidia", "NVIDIA H200", "90", 150 * GB)
NVIDIA = Graphics(
    cards=frozenset(["nvidia"]),
    gpus=(H200,),
    nvidia_driver="570.86.15",
    devices=("/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"),
    nvcc=True,
)
HOST = Facts(
    distribution="debian",
    version="12",
    python=(3, 11),
    interpreter="cpython-311 /usr",
    systemd=252,
    machine="x86_64",
    avx2=True,
    memory_total=16 * GB,
    memory_available=14 * GB,
    accelerator="cpu",
    models_disk=Disk(Path("/var/lib"), 1, 100 * GB),
    code_disk=Disk(Path("/opt"), 2, 100 * GB),
    state_disk=Disk(Path("/var/lib"), 1, 100 * GB),
)
ON_HOST = Wants("host", Path("/s"), Path("/m"), Path("/c"), {"proxy": ("127.0.0.1", 8001)})


def model(name: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "running": True,
        "memory_bytes": 2 * GB,
        "missing_bytes": 0,
        "settings": {"n_gpu_layers": 0},
        **more,
    }


def found(
    facts: Facts = HOST, wants: Wants = ON_HOST, models: tuple[dict[str, Any], ...] = (model(),)
) -> tuple[list[str], list[str]]:
    """Problems as text, and warnings."""
    problems, warnings = check(wants, facts, {"models": list(models)})
    return [str(problem) for problem in problems], warnings


def but(**changes: Any) -> Facts:
    return dataclasses.replace(HOST, **changes)


def test_a_host_that_fits() -> None:
    assert found() == ([], [])
    assert HOST.kind == "cpu-x86_64-debian12"
    assert HOST.cmake_flags == "-DGGML_NATIVE=OFF"
    assert HOST.summary()["devices"] == []


@pytest.mark.parametrize(
    ("distribution", "version", "fits"),
    [
        ("debian", "12", True),
        ("debian", "13", True),
        ("debian", "11", False),
        ("debian", "", False),
        ("ubuntu", "24.04", True),
        ("ubuntu", "26.04", True),
        ("ubuntu", "22.04", False),
        ("fedora", "41", False),
    ],
)
def test_distributions(distribution: str, version: str, fits: bool) -> None:
    facts = but(distribution=distribution, version=version)
    problems, warnings = found(facts)
    assert bool(problems) is not fits
    assert not warnings
    problems, warnings = found(facts, dataclasses.replace(ON_HOST, untested_distribution=True))
    assert not problems
    assert bool(warnings) is not fits
    assert found(facts, dataclasses.replace(ON_HOST, place="local")) == ([], [])


def test_all_problems_are_told_at_once() -> None:
    facts = but(python=(3, 9), systemd=None, distribution="arch", memory_total=GB)
    problems, _ = found(facts)
    assert len(problems) == 4
    for problem in problems:
        assert "found: " in problem
        assert "expected: " in problem
        assert "do: " in problem
    problems, _ = found(but(systemd=247))
    assert "version 247" in problems[0]


GPU_HOST = dataclasses.replace(ON_HOST, gpu_group=True)
MISMATCH = (
    "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch NVML library "
    "version: 570.133"
)


@pytest.mark.parametrize(
    ("graphics", "said"),
    [
        (Graphics(), "no NVIDIA card on the PCI bus"),
        (Graphics(cards=frozenset(["nvidia"])), "its driver is not loaded"),
        (
            Graphics(frozenset(["nvidia"]), nvidia_driver="570.86.15", nvidia_error=MISMATCH),
            "reboot the host: the driver was upgraded",
        ),
        (
            Graphics(nvidia_driver="570.86.15", nvidia_error="there is no nvidia-smi"),
            "there is no nvidia-smi",
        ),
    ],
)
def test_a_gpu_host_without_a_working_gpu(graphics: Graphics, said: str) -> None:
    ((problem,), _) = found(but(graphics=graphics, accelerator="cuda"), GPU_HOST)
    assert said in problem
    problems, (warning,) = found(but(graphics=graphics, accelerator="cpu"), GPU_HOST)
    assert not problems
    assert "every model runs on the processor" in warning


def test_a_gpu_host_that_fits() -> None:
    facts = but(graphics=NVIDIA, accelerator="cuda")
    assert found(facts, GPU_HOST) == ([], [])
    assert facts.kind == "cuda90-x86_64-debian12"
    assert facts.cmake_flags == "-DGGML_NATIVE=OFF -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90"
    devices = ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia0", "/dev/nvidiactl"]
    assert facts.summary()["devices"] == devices


def test_what_a_gpu_host_may_lack() -> None:
    graphics = dataclasses.replace(NVIDIA, devices=("/dev/nvidia0",), nvcc=False)
    problems, warnings = found(but(graphics=graphics, accelerator="cuda"), GPU_HOST)
    assert not problems
    assert "nvidia-modprobe" in warnings[0]
    assert "nvcc" in warnings[1]
    ((problem,), _) = found(but(graphics=NVIDIA, accelerator="rocm"), GPU_HOST)
    assert "/dev/kfd" in problem
    ((problem,), _) = found(but(graphics=NVIDIA, accelerator="vulkan"), GPU_HOST)
    assert "renderD" in problem


def test_two_kinds_of_cards() -> None:
    graphics = dataclasses.replace(NVIDIA, gpus=(H200, Gpu("nvidia", "A10", "86", 24 * GB), H200))
    facts = but(graphics=graphics, accelerator="cuda")
    assert facts.kind == "cuda86_90-x86_64-debian12"
    assert facts.cmake_flags.endswith("ARCHITECTURES=86;90")


def test_memory_of_the_machine() -> None:
    many = tuple(model(name, memory_bytes=6 * GB) for name in "abcd")
    ((problem,), _) = found(models=many)
    assert "24.0 GB for 4 models" in problem
    problems, (warning,) = found(but(memory_available=GB))
    assert not problems
    assert "swapping" in warning
    assert found(models=(model(running=False, memory_bytes=99 * GB),)) == ([], [])


def test_memory_of_the_cards() -> None:
    facts = but(graphics=NVIDIA, accelerator="cuda")
    on_gpu = {"n_gpu_layers": -1}
    assert found(facts, models=(model(memory_bytes=100 * GB, settings=on_gpu),)) == ([], [])
    ((problem,), _) = found(facts, models=(model(memory_bytes=200 * GB, settings=on_gpu),))
    assert "the memory of the GPU" in problem
    half = {"n_gpu_layers": 10}
    ((problem,), _) = found(facts, models=(model(memory_bytes=20 * GB, settings=half),))
    assert "  the memory\n" in problem


def test_disks_are_added_up_by_file_system() -> None:
    big = (model(missing_bytes=40 * GB),)
    assert found(models=big) == ([], [])
    ((problem,), _) = found(models=(model(missing_bytes=101 * GB),))
    assert "models to download" in problem
    one = Disk(Path("/"), 1, 40 * GB + INSTALL_BYTES)
    together = but(models_disk=one, code_disk=one, state_disk=one)
    ((problem,), _) = found(together, models=big)
    assert "the installation" in problem
    assert found(dataclasses.replace(together, installed=True), models=big) == ([], [])
    tight = dataclasses.replace(one, free=40 * GB + INSTALL_BYTES + RESERVE_BYTES)
    problems, (warning,) = found(
        but(models_disk=tight, code_disk=tight, state_disk=tight), models=big
    )
    assert not problems
    assert "compiling" in warning


@pytest.mark.parametrize(
    ("host", "loud"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), (ANYWHERE, True), ("::", True)],
)
def test_plain_http_on_a_network_is_loud(host: str, loud: bool) -> None:
    wants = dataclasses.replace(ON_HOST, services={"proxy": (host, 8001)})
    problems, warnings = found(wants=wants)
    assert not problems
    assert any("PLAIN HTTP ON THE NETWORK" in warning for warning in warnings) is loud
    assert found(wants=dataclasses.replace(wants, tls=True)) == ([], [])
    _, (warning,) = found(wants=dataclasses.replace(ON_HOST, bind_host="192.0.2.1"))
    assert "192.0.2.1" in warning


def test_a_processor_without_avx2_warns() -> None:
    _, (warning,) = found(but(avx2=False))
    assert "AVX2" in warning
    assert found(but(avx2=False, machine="aarch64")) == ([], [])


def test_what_nvidia_smi_prints() -> None:
    gpus = read_smi("NVIDIA H200, 9.0, 143771\nNVIDIA GeForce GTX 1650, 7.5, [N/A]\n")
    assert [gpu.architecture for gpu in gpus] == ["90", "75"]
    assert gpus[0].memory_bytes == 143771 << 20
    assert gpus[1].memory_bytes == 0


def test_names_of_amd_cards() -> None:
    assert [gfx_name(n) for n in (90010, 110000, 100302, 90402)] == [
        "gfx90a",
        "gfx1100",
        "gfx1032",
        "gfx942",
    ]


def test_the_kernels_view_of_an_amd_card(tmp_path: Path) -> None:
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for number, version in (("0", 0), ("1", 110000)):
        (nodes / number / "mem_banks/0").mkdir(parents=True)
        (nodes / number / "properties").write_text(
            f"cpu_cores_count 1\ngfx_target_version {version}\n"
        )
        (nodes / number / "name").write_text("navi31\n")
        (nodes / number / "mem_banks/0/properties").write_text("heap_type 1\nsize_in_bytes 24\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    for name in ("kfd", "dri/renderD128", "dri/card0"):
        (tmp_path / "dev" / name).touch()
    graphics = find_graphics(tmp_path)
    assert graphics.gpus == (Gpu("amd", "navi31", "gfx1100", 24),)
    assert graphics.detect() == "rocm"
    assert graphics.devices_for("rocm") == ["/dev/kfd", "/dev/dri/renderD128"]
    assert graphics.devices_for("vulkan") == ["/dev/dri/renderD128"]
    facts = but(graphics=graphics, accelerator="rocm")
    assert facts.kind == "rocmgfx1100-x86_64-debian12"
    assert facts.cmake_flags.endswith("-DGGML_HIP=ON -DAMDGPU_TARGETS=gfx1100")


def test_the_groups_of_devices(tmp_path: Path) -> None:
    gid = os.getgid() or grp.getgrnam("daemon").gr_gid
    device = tmp_path / "renderD128"
    device.touch()
    os.chown(device, -1, gid)
    devices = [device, Path("/dev/null"), tmp_path / "none"]
    assert owning_groups(devices) == [grp.getgrgid(gid).gr_name]


def test_a_card_without_a_driver_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "class").write_text("0x030200\n")
    (device / "vendor").write_text("0x10de\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert find_graphics(tmp_path).nvidia_error == "there is no nvidia-smi"
    smi = programs / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n"
    )
    smi.chmod(0o755)
    driver = tmp_path / "proc/driver/nvidia"
    driver.mkdir(parents=True)
    (driver / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    )
    graphics = find_graphics(tmp_path)
    assert graphics.cards == {"nvidia"}
    assert graphics.nvidia_driver == "570.86.15"
    assert "mismatch" in (graphics.nvidia_error or "")
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 143771'\n")
    assert find_graphics(tmp_path).detect() == "cuda"
