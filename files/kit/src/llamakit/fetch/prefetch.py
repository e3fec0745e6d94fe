"""Fetches what the next start would run, with progress, before the plays run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llamakit.arguments import ROUTES, Commands, add_model_arguments, configuration
from llamakit.config.local_env import LOCAL_ENV
from llamakit.fetch.cli import fetch_models
from llamakit.fetch.errors import FetchStatus
from llamakit.fetch.stamps import Stamps
from llamakit.models.last_choice import gone_choice, last_choice
from llamakit.models.plan import build_plan, list_candidates
from llamakit.models.plan_options import PlanOptions
from llamakit.smoke.stand_in import SMOKE_ID

SMOKE_STANDS_IN = """
There is no model here and none can be fetched now. The built-in smoke model
stands in: it recites a fixed text, so that keys, limits and clients can be tried.
"""
SMOKE_GOES_ON = "The smoke model still stands in. To fetch a real one: ./console.sh add"
ANOTHER_IS_HERE = """
The model {id} is here, and runs instead. ./console.sh use switches to another.
"""
STAYS_IDLE = "Not run: {models}; single runs the selected model alone, and fetches no other."
MULTI_NEEDS_ALL = """
multi runs every model that {models} lists. Take the entry out of it, or fetch the model
when the hub can be reached, then run ./console.sh start multi again. Nothing was changed.\
"""


def add_commands(subcommands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``prefetch`` to the kit's command line."""
    parser = subcommands.add_parser("prefetch", help="fetch the models that a start would run")
    add_model_arguments(parser)
    parser.add_argument("--routes", type=Path, default=ROUTES)
    parser.add_argument("--settings", type=Path, default=LOCAL_ENV)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--mode", choices=["single", "multi"])
    parser.add_argument("--model", help="id, alias or number")
    parser.add_argument("--progress", choices=["auto", "plain", "none"], default="auto")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the id to select, or nothing to keep the choice; the exit status is that of fetch."""
    last = last_choice(options.state_dir)
    config = configuration(options)
    candidates = list_candidates(config, options.models_dir)
    here = [candidate for candidate in candidates if candidate.present]
    if last.get("model") == SMOKE_ID and not here and not options.model:
        print(SMOKE_GOES_ON, file=sys.stderr)
        return 0
    mode = options.mode or last.get("mode", "single")
    plan = build_plan(
        config,
        PlanOptions(
            models_dir=options.models_dir,
            smoke_dir=options.state_dir / "smoke",
            mode=mode,
            model=options.model,
            remembered=last.get("model"),
        ),
    )
    gone = None if options.model else gone_choice(last, plan)
    if gone:
        print(gone, file=sys.stderr)
    wanted = {model["id"] for model in plan["models"] if model["running"]}
    if options.model:
        wanted.add(plan["selected"])
    absent = [candidate for candidate in candidates if not candidate.present]
    missing = [candidate for candidate in absent if candidate.id in wanted]
    idle = [f"{e.id} ({e.state.state})" for e in absent if e.source and e.id not in wanted]
    if idle:
        print(STAYS_IDLE.format(models=", ".join(idle)), file=sys.stderr)
    if errors := fetch_models(missing, Stamps(None), options.progress):
        worst = next((e for e in errors if e.status != FetchStatus.UNREACHABLE), errors[0])
        if worst.status != FetchStatus.UNREACHABLE or options.model:
            return worst.status
        if not here:
            print(SMOKE_STANDS_IN, file=sys.stderr)
        elif mode == "multi":
            print(MULTI_NEEDS_ALL.format(models=options.models), file=sys.stderr)
            return worst.status
        else:
            chosen = min(here, key=lambda candidate: candidate.kind != "chat")
            print(ANOTHER_IS_HERE.format(id=chosen.id), file=sys.stderr)
            print(chosen.id)
        return 0
    if options.model or gone:
        print(plan["selected"])
    return 0
