"""Looks for what could go wrong on this machine: one line a check, and what to do about it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from llamakit.arguments import Commands, add_model_arguments
from llamakit.doctor import build, config, machine
from llamakit.doctor.finding import Check, Finding, Where


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the kit's command line."""
    doctor = commands.add_parser("doctor", help="look for what could go wrong on this machine")
    add_model_arguments(doctor)
    doctor.add_argument("--routes", type=Path, default=Path("config/proxy_routes.yaml"))
    doctor.add_argument("--state-dir", type=Path, default=Path("runtime"))
    doctor.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 1 when a check fails; warnings don't count."""
    where = Where(options.models, options.routes, options.models_dir, options.state_dir)
    levels = []
    for finding in examine(where):
        levels.append(finding.level)
        print(f"{finding.level:5} {finding.subject:10} {finding.found}")
        if finding.remedy:
            print(f"{'':16} do: {finding.remedy}")
        sys.stdout.flush()
    failed, warned = levels.count("fail"), levels.count("warn")
    print(f"\n{len(levels)} checks: {failed} failed, {warned} warnings")
    return 1 if failed else 0


def examine(where: Where) -> Iterator[Finding]:
    """All findings, as they are made."""
    for module in (config, build, machine):
        checks: tuple[Check, ...] = module.CHECKS
        for check in checks:
            yield from check(where)
