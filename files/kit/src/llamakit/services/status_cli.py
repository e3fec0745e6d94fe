"""The ``status`` command: a table for people, JSON for scripts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import textwrap
from pathlib import Path

from llamakit.arguments import Commands
from llamakit.quantities import duration, size
from llamakit.services.service_status import ServiceStatus
from llamakit.services.status import Status, read_status
from llamakit.services.upkeep import Upkeep

EXIT = {"up": 0, "degraded": 1, "stopped": 3}
NAME_WIDTH = 28
COLOURS = {"up": 32, "starting": 33, "stopping": 33, "stopped": 0}
RED = 31
START = "./console.sh start"


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the kit's command line."""
    status = commands.add_parser("status", help="what runs, within two seconds")
    status.add_argument("--state-dir", type=Path, required=True)
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 0 when all is up, 3 when nothing runs, 1 otherwise."""
    try:
        status = read_status(options.state_dir)
    except FileNotFoundError as error:
        print(
            f"nothing is installed here: {error.filename} is not there\nRun: {START}",
            file=sys.stderr,
        )
        return 3
    except PermissionError as error:
        print(f"{error.filename} can't be read by you; ask as root", file=sys.stderr)
        return 1
    if options.json:
        json.dump(dataclasses.asdict(status), sys.stdout, indent=2)
        print()
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print("\n".join(table(status, colour=colour)))
    return EXIT[status.overall]


def table(status: Status, *, colour: bool) -> list[str]:
    """The lines of the table, at most 80 columns wide."""
    model = f", model {status.model}" if status.mode == "single" and status.model else ""
    lines = [
        f"mode {status.mode or 'none yet'}{model}",
        f"endpoint {status.url}/v1   managed by {status.manager}",
        "",
        f"{'SERVICE':{NAME_WIDTH}} {'STATE':9} {'PID':>7} {'PORT':>5} "
        f"{'MEMORY':>7} {'UP':>9} RESTARTS",
    ]
    lines += [_line(service, colour) for service in status.services]
    if told := _upkeep(status.upkeep):
        lines += ["", told]
    if status.problem:
        lines += ["", status.problem]
    notes = [service for service in status.services if service.detail]
    if notes:
        lines.append("")
        lines += [f"{service.name}: {service.detail}" for service in notes]
    for warning in status.upkeep.warnings:
        lines += ["", *textwrap.wrap(f"WARNING: {warning}", 80)]
    start = "systemctl start llamakit.target" if status.upkeep.place == "host" else START
    if status.overall == "stopped":
        lines += ["", f"Nothing runs. Start it with: {start}"]
    elif why := _logs(status):
        lines += ["", f"See why with: {why}"]
    return lines


def _logs(status: Status) -> str | None:
    """The command that shows the log of what is wrong; None when nothing is, or it is elsewhere."""
    for service in status.services:
        if service.state not in ("crashing", "failed", "unhealthy"):
            continue
        if service.log.startswith("journalctl"):
            return service.log
        if status.upkeep.place != "host":
            return f"./console.sh logs {service.name}"
        if service.kind != "postgres":
            return f"journalctl -u llamakit-{service.name} -n 50"
    return None


def _upkeep(upkeep: Upkeep) -> str:
    """One line: release, backup and certificate, as far as there are such."""
    parts = []
    if upkeep.release is not None:
        parts.append(f"release {upkeep.release}")
    if upkeep.backup_age_seconds is not None:
        parts.append(f"last backup {duration(upkeep.backup_age_seconds)} ago")
    if upkeep.certificate_days is not None:
        parts.append(f"certificate good for {max(upkeep.certificate_days, 0)} days")
    return "   ".join(parts)


def _line(service: ServiceStatus, colour: bool) -> str:
    name = service.name
    if len(name) > NAME_WIDTH:
        name = name[: NAME_WIDTH - 1] + "…"
    state = f"{service.state:9}"
    code = COLOURS.get(service.state, RED)
    if colour and code:
        state = f"\x1b[{code}m{state}\x1b[0m"
    memory = "-" if service.memory_bytes is None else size(service.memory_bytes)
    uptime = "-" if service.uptime_seconds is None else duration(service.uptime_seconds)
    return (
        f"{name:{NAME_WIDTH}} {state} {service.pid or '-':>7} {service.port:>5} "
        f"{memory:>7} {uptime:>9} {service.restarts:>8}"
    )
