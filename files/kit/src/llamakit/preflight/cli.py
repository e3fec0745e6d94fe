"""``preflight``: the plan and what the machine is, or everything that is in the way."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from llamakit.arguments import Commands, configuration
from llamakit.config.problems import ConfigError, Problem
from llamakit.models.last_choice import gone_choice, last_choice
from llamakit.models.plan import build_plan
from llamakit.models.plan_options import add_plan_arguments, plan_options
from llamakit.preflight.addresses import refused_addresses
from llamakit.preflight.backend_keys import missing_keys
from llamakit.preflight.checks import check
from llamakit.preflight.facts import gather
from llamakit.preflight.ports import busy_ports
from llamakit.preflight.wants import add_arguments, read_wants


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the kit's command line."""
    parser = commands.add_parser(
        "preflight", help="plan, and check this machine against the plan; changes nothing"
    )
    add_plan_arguments(parser)
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints one JSON document; raises ConfigError with everything that is not as it must be."""
    config = configuration(options)
    wants = read_wants(options)
    facts = gather(wants)
    problems: list[Problem] = []
    plan: dict[str, Any] | None = None
    try:
        plan = build_plan(config, plan_options(options, facts.accelerator, make_smoke=False))
    except ConfigError as error:
        # The machine is checked all the same, so that everything is told at once.
        problems += error.problems
    found, warnings = check(wants, facts, plan)
    problems += found
    problems += refused_addresses(wants, plan)
    problems += busy_ports(wants, plan)
    if plan and options.state_dir and not options.model:
        gone = gone_choice(last_choice(options.state_dir), plan)
        warnings += [gone] if gone else []
    if plan is not None:
        on = " on this host" * (wants.place == "host")
        problems += missing_keys(wants.secrets_dir, plan["routes"]["models"], on)
    if problems:
        raise ConfigError(problems, shown=len(problems))
    json.dump({"plan": plan, "host": facts.summary(), "warnings": warnings}, sys.stdout, indent=2)
    print()
    return 0
