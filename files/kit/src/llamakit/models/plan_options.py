"""What a plan depends on besides what the user configured, and the arguments that say it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llamakit.arguments import ROUTES, add_model_arguments
from llamakit.models.last_choice import last_choice, last_ports
from llamakit.preflight.gpu import find_graphics

Mode = Literal["single", "multi"]
ACCELERATORS = ("auto", "cpu", "cuda", "vulkan", "rocm")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The arguments of a plan; ports are numbers, hosts are addresses."""

    models_dir: Path
    smoke_dir: Path
    mode: Mode = "single"
    model: str | None = None  # id, alias or number
    remembered: str | None = None  # what was selected last, which may be gone
    port_base: int = 8010
    kept_ports: dict[str, int] = field(default_factory=dict)  # by id, of the last plan
    reserved_ports: tuple[int, ...] = ()
    gpu_layers: int = 0
    bind_host: str = "127.0.0.1"
    allow_smoke: bool = False
    make_smoke: bool = True  # False: plan with it without writing it


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``plan`` and ``preflight`` have in common."""
    add_model_arguments(parser)
    parser.add_argument("--routes", type=Path, default=ROUTES)
    parser.add_argument("--smoke-dir", type=Path, default=Path("runtime/smoke"))
    parser.add_argument("--state-dir", type=Path, help="has what ran last, in mode.json")
    parser.add_argument(
        "--mode", choices=["", "single", "multi"], default="", help="empty: what ran last"
    )
    parser.add_argument("--model", help="the selected model: id, alias or number")
    parser.add_argument("--remembered", metavar="ID", help="what was selected last; it may be gone")
    parser.add_argument("--port-base", type=int, default=8010)
    parser.add_argument("--reserved-ports", type=_ports, default=(), metavar="PORT,PORT")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="auto")
    parser.add_argument(
        "--gpu-layers",
        type=_layers,
        default=0,
        metavar="auto|N",
        help="what n_gpu_layers: auto means; auto is all of them where there is an accelerator",
    )
    parser.add_argument("--bind-host", default="127.0.0.1")
    parser.add_argument(
        "--allow-smoke", action="store_true", help="let the smoke model stand in for missing ones"
    )


def plan_options(
    options: argparse.Namespace, accelerator: str | None = None, *, make_smoke: bool = True
) -> PlanOptions:
    """The arguments as they were given, with what ran last in the place of what was not.

    ``accelerator`` is what ``--accelerator auto`` has turned out to be, where that is known.
    """
    last = last_choice(options.state_dir) if options.state_dir else {}
    layers = options.gpu_layers
    if layers is None:
        chosen = accelerator or options.accelerator
        chosen = find_graphics().detect() if chosen == "auto" else chosen
        layers = 0 if chosen == "cpu" else -1
    return PlanOptions(
        models_dir=options.models_dir,
        smoke_dir=options.smoke_dir,
        mode=options.mode or last.get("mode", "single"),
        model=options.model or None,
        remembered=options.remembered or last.get("model"),
        port_base=options.port_base,
        kept_ports=last_ports(last, options.port_base),
        reserved_ports=options.reserved_ports,
        gpu_layers=layers,
        bind_host=options.bind_host,
        allow_smoke=options.allow_smoke,
        make_smoke=make_smoke,
    )


def _ports(text: str) -> tuple[int, ...]:
    """A list like ``8001,5433``."""
    return tuple(int(port) for port in text.split(",") if port)


def _layers(text: str) -> int | None:
    """A number of layers, or None for ``auto``."""
    return None if text == "auto" else int(text)
