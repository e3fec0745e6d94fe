"""``gpu-proof``: whether the layers of each model are where they should be, on the GPU.

llama.cpp falls back to the processor without an error, for example when the driver is not ready at
boot. So each model server writes down what llama.cpp said while it loaded (server/load_log.py), and
this compares it with what was asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamakit.arguments import Commands
from llamakit.services.running import running_services

SMI_SECONDS = 20.0
DRIVER = Path("/proc/driver/nvidia/version")


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the kit's command line."""
    parser = commands.add_parser("gpu-proof", help="prove that the models' layers are on the GPU")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 1 when a model that should be on the GPU is not; silent where none should."""
    services = [s for s in running_services(options.state_dir) if s["kind"] == "model"]
    verdicts = [judge(service, options.state_dir / "run") for service in services]
    told = [verdict for verdict in verdicts if verdict is not None]
    seen = compute_processes() if any(verdict.good for verdict in told) else None
    for verdict in told:
        print(verdict.text, file=sys.stdout if verdict.good else sys.stderr)
        if verdict.good and seen and verdict.pid not in seen and verdict.cuda:
            # A container may see other process numbers than the driver.
            print(f"{verdict.name}: nvidia-smi does not list its process (pid {verdict.pid})")
    return 0 if all(verdict.good for verdict in told) else 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found for one model."""

    name: str
    good: bool
    text: str
    pid: int = 0
    cuda: bool = False


def judge(service: Mapping[str, Any], run_dir: Path) -> Verdict | None:
    """The verdict on a running model server; None when nothing of it belongs on a GPU."""
    model = service["model"]
    file = run_dir / f"gpu-{model}.json"  # written by llamakit_server.load_log
    try:
        proof = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _bad(
            model,
            f"{file} is not there: the server did not say where its layers are",
            f"restart it (systemctl restart llamakit-{service['name']}) and ask again",
        )
    except (OSError, ValueError) as error:
        return _bad(model, f"{file} can't be read: {error}", "ask as root, or restart the server")
    if not proof["wanted"]:
        return None
    if proof["pid"] != service["pid"]:
        return _bad(
            model,
            f"{file} was written by process {proof['pid']}, and {service['pid']} is running",
            "wait until it has loaded the model, and ask again",
        )
    return weigh(model, proof)


def weigh(model: str, proof: Mapping[str, Any]) -> Verdict:
    """Compares the layers on the GPU with those that were asked for."""
    wanted, layers, offloaded = proof["wanted"], proof["layers"], proof["offloaded"]
    if not proof["supported"] or not proof["devices"] or not offloaded:
        reason = proof["refusal"] or (
            "the driver gave llama.cpp no layer"
            if proof["supported"]
            else "llama.cpp was built for the CPU alone, or found no device"
        )
        return _bad(
            model,
            f"it runs on the processor: 0 layers are on a GPU ({reason})",
            "look at the driver (nvidia-smi, ls -l /dev/nvidia*) and restart the model; its wheel "
            "must be built for the GPU (llama_server_accelerator)",
        )
    expected = layers if wanted < 0 else min(wanted, layers)
    places = ", ".join(f"{size:.0f} MiB on {name}" for name, size in proof["devices"].items())
    if offloaded < expected:
        return _bad(
            model,
            f"{offloaded} of {layers} layers are on the GPU ({places}); {expected} were asked for",
            "make room on the GPU (nvidia-smi), or set n_gpu_layers for it in config/models.yaml",
        )
    cuda = any(name.startswith("CUDA") for name in proof["devices"])
    text = f"{model}: {offloaded} of {layers} layers on the GPU ({places})"
    return Verdict(model, True, text, proof["pid"], cuda)


def _bad(model: str, found: str, remedy: str) -> Verdict:
    return Verdict(model, False, f"{model}: {found}\n  do: {remedy}")


def compute_processes() -> set[int] | None:
    """The processes that NVIDIA's driver computes for; None where it can't be asked."""
    if not DRIVER.exists():
        return None
    try:
        result = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=SMI_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {int(line) for line in result.stdout.split() if line.isdecimal()}
