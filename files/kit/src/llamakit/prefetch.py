"""Fetches what the next start would run, with progress, before the plays run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from llamakit.fetch_errors import FetchError, FetchStatus
from llamakit.files_cli import fetch_model
from llamakit.models_cli import Commands, add_model_arguments
from llamakit.plan import PlanOptions, build_plan, list_candidates
from llamakit.stamps import Stamps


def add_commands(subcommands: Commands[argparse.ArgumentParser]) -> None:
    """Adds ``prefetch`` to the kit's command line."""
    parser = subcommands.add_parser("prefetch", help="fetch the models that a start would run")
    add_model_arguments(parser)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--mode", choices=["single", "multi"])
    parser.add_argument("--model", help="id, alias or number")
    parser.add_argument("--progress", choices=["auto", "plain", "none"], default="auto")
    parser.set_defaults(run=run)


def last_choice(state_dir: Path) -> dict[str, Any]:
    """The mode and the model that ran last: ``{"mode": …, "model": …}``, empty before the first."""
    try:
        return dict(json.loads((state_dir / "mode.json").read_text()))
    except FileNotFoundError:
        return {}


def run(options: argparse.Namespace) -> int:
    """Exit 0 when all is here, or when the smoke model may stand in; else that of ``fetch``."""
    last = last_choice(options.state_dir)
    plan = build_plan(
        PlanOptions(
            models=options.models,
            routes=Path("config/proxy_routes.yaml"),
            models_dir=options.models_dir,
            smoke_dir=options.state_dir / "smoke",
            mode=options.mode or last.get("mode", "single"),
            model=options.model or last.get("model"),
        )
    )
    running = {model["id"] for model in plan["models"] if model["running"]}
    candidates = list_candidates(options.models, options.models_dir)
    stamps = Stamps(None)
    try:
        for candidate in candidates:
            if candidate.id in running and not candidate.present:
                fetch_model(candidate, stamps, options.progress)
    except FetchError as error:
        nothing_here = not any(candidate.present for candidate in candidates)
        if error.status == FetchStatus.UNREACHABLE and nothing_here and not options.model:
            print(error, file=sys.stderr)
            print(
                "\nThere is no model here and none can be fetched now. The built-in smoke model\n"
                "stands in: it recites a fixed text, so that keys, limits and clients can be tried.",
                file=sys.stderr,
            )
            return 0
        print(error, file=sys.stderr)
        return error.status
    return 0
