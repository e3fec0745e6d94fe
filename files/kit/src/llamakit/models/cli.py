"""The commands that read models.yaml: ``plan``, ``models``, ``select`` and ``smoke``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llamakit.arguments import Commands, add_model_arguments, configuration
from llamakit.models.last_choice import last_choice
from llamakit.models.plan import Candidate, build_plan, list_candidates, resolve
from llamakit.models.plan_options import add_plan_arguments, plan_options
from llamakit.models.table import print_models
from llamakit.smoke.stand_in import SMOKE_ID


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the commands to the kit's command line."""
    plan = commands.add_parser("plan", help="print what is to run, as JSON")
    add_plan_arguments(plan)
    plan.set_defaults(run=run_plan)

    models = commands.add_parser("models", help="list the models with their numbers")
    add_model_arguments(models)
    models.add_argument("--state-dir", type=Path, help="has the model that was selected last")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=run_models)

    select = commands.add_parser("select", help="print the id of a model, chosen or named")
    add_model_arguments(select)
    select.add_argument("--state-dir", type=Path, help="has the model that was selected last")
    select.add_argument("--model", help="id, alias or number; asked for on a terminal if missing")
    select.set_defaults(run=run_select)

    smoke = commands.add_parser("smoke", help="make the built-in smoke model")
    smoke.add_argument("--out", type=Path, required=True)
    smoke.set_defaults(run=run_smoke)


def run_plan(options: argparse.Namespace) -> int:
    plan = build_plan(configuration(options), plan_options(options))
    json.dump(plan, sys.stdout, indent=2)
    print()
    return 0


def run_models(options: argparse.Namespace) -> int:
    candidates = list_candidates(configuration(options), options.models_dir)
    print_models(candidates, as_json=options.json, selected=_selected(options))
    return 0


def run_select(options: argparse.Namespace) -> int:
    config = configuration(options)
    candidates = list_candidates(config, options.models_dir)
    name = options.model
    if name is None:
        if not sys.stdin.isatty():
            print(
                "no model named and no terminal to ask on; "
                "name one of those that ./console.sh models lists",
                file=sys.stderr,
            )
            return 2
        name = ask(candidates, _selected(options))
    chosen = resolve(candidates, name, config.models_file)
    print(chosen.id if chosen is not None else SMOKE_ID)
    return 0


def _selected(options: argparse.Namespace) -> str | None:
    """The id of the model that was selected last, before any start None."""
    return last_choice(options.state_dir).get("model") if options.state_dir else None


def ask(candidates: Sequence[Candidate], selected: str | None = None) -> str:
    """Lists the models on the terminal and reads a number or a name.

    Empty means the selected one, else the first that is there, else the first.
    """
    print_models(candidates, as_json=False, selected=selected, file=sys.stderr)
    numbered = list(enumerate(candidates, 1))
    here = [number for number, each in numbered if each.present]
    default = next((n for n, each in numbered if each.id == selected), [*here, 1][0])
    question = f"Which model? [1-{len(candidates)}, default {default}] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or str(default)


def run_smoke(options: argparse.Namespace) -> int:
    from llamakit.smoke.model import write_smoke_model

    write_smoke_model(options.out)
    return 0
