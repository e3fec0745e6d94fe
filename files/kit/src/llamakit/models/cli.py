"""The commands that read models.yaml: ``plan``, ``models``, ``select`` and ``smoke``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llamakit.arguments import Commands, add_model_arguments
from llamakit.models.plan import Candidate, PlanOptions, build_plan, list_candidates, resolve
from llamakit.models.table import print_models
from llamakit.smoke.stand_in import SMOKE_ID


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the commands to the kit's command line."""
    plan = commands.add_parser("plan", help="print what is to run, as JSON")
    add_model_arguments(plan)
    plan.add_argument("--routes", type=Path, default=Path("config/proxy_routes.yaml"))
    plan.add_argument("--smoke-dir", type=Path, default=Path("runtime/smoke"))
    plan.add_argument("--mode", choices=["single", "multi"], default="single")
    plan.add_argument("--model", help="the selected model: id, alias or number")
    plan.add_argument("--remembered", metavar="ID", help="what was selected last; it may be gone")
    plan.add_argument("--port-base", type=int, default=8010)
    plan.add_argument("--reserved-ports", type=ports, default=(), metavar="PORT,PORT")
    plan.add_argument("--gpu-layers", type=int, default=0, help="what n_gpu_layers: auto means")
    plan.add_argument("--bind-host", default="127.0.0.1")
    plan.add_argument(
        "--allow-smoke", action="store_true", help="let the smoke model stand in for missing ones"
    )
    plan.set_defaults(run=run_plan)

    models = commands.add_parser("models", help="list the models with their numbers")
    add_model_arguments(models)
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=run_models)

    select = commands.add_parser("select", help="print the id of a model, chosen or named")
    add_model_arguments(select)
    select.add_argument("--model", help="id, alias or number; asked for on a terminal if missing")
    select.set_defaults(run=run_select)

    smoke = commands.add_parser("smoke", help="make the built-in smoke model")
    smoke.add_argument("--out", type=Path, required=True)
    smoke.set_defaults(run=run_smoke)


def ports(text: str) -> tuple[int, ...]:
    """A list like ``8001,5433``."""
    return tuple(int(port) for port in text.split(",") if port)


def run_plan(options: argparse.Namespace) -> int:
    plan = build_plan(
        PlanOptions(
            models=options.models,
            routes=options.routes,
            models_dir=options.models_dir,
            smoke_dir=options.smoke_dir,
            mode=options.mode,
            model=options.model,
            remembered=options.remembered,
            port_base=options.port_base,
            reserved_ports=options.reserved_ports,
            gpu_layers=options.gpu_layers,
            bind_host=options.bind_host,
            allow_smoke=options.allow_smoke,
        )
    )
    json.dump(plan, sys.stdout, indent=2)
    print()
    return 0


def run_models(options: argparse.Namespace) -> int:
    print_models(list_candidates(options.models, options.models_dir), as_json=options.json)
    return 0


def run_select(options: argparse.Namespace) -> int:
    candidates = list_candidates(options.models, options.models_dir)
    name = options.model
    if name is None:
        if not sys.stdin.isatty():
            print(
                "no model named and no terminal to ask on; "
                "name one of those that ./console.sh models lists",
                file=sys.stderr,
            )
            return 2
        name = ask(candidates)
    chosen = resolve(candidates, name, options.models)
    print(chosen.id if chosen is not None else SMOKE_ID)
    return 0


def ask(candidates: Sequence[Candidate]) -> str:
    """Lists the models on the terminal and reads a number or a name; empty means the first."""
    print_models(candidates, as_json=False, file=sys.stderr)
    print(f"Which model? [1-{len(candidates)}, default 1] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or "1"


def run_smoke(options: argparse.Namespace) -> int:
    from llamakit.smoke.model import write_smoke_model

    write_smoke_model(options.out)
    return 0
