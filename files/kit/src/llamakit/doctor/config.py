"""Checks of what the user configured: the files, the models, their memory and their ports."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamakit.config.files import load_config
from llamakit.config.problems import ConfigError
from llamakit.doctor.finding import Finding, Where
from llamakit.doctor.machine import chosen_manager
from llamakit.models.last_choice import last_choice, last_ports
from llamakit.models.plan import build_plan
from llamakit.models.plan_options import PlanOptions
from llamakit.preflight.addresses import refused_addresses
from llamakit.preflight.backend_keys import missing_keys
from llamakit.preflight.ports import busy_ports
from llamakit.preflight.wants import Wants
from llamakit.quantities import size
from llamakit.services.memory import total_memory


def configuration(where: Where) -> Iterator[Finding]:
    """models.yaml, proxy_routes.yaml and local.env, then what the next start would run."""
    last = last_choice(where.state_dir)
    port_base = int(os.environ.get("LLAMA_SERVER_PORT") or 8010)
    try:
        plan = build_plan(
            load_config(where.models, where.routes, where.settings),
            PlanOptions(
                models_dir=where.models_dir,
                smoke_dir=where.state_dir / "smoke",
                mode=last.get("mode", "single"),
                remembered=last.get("model"),
                port_base=port_base,
                kept_ports=last_ports(last, port_base),
            ),
        )
    except ConfigError as error:
        for problem in error.problems:
            found = f"{problem.where}: {problem.found}"
            yield Finding("fail", "config", found, f"{problem.remedy} ({problem.expected})")
        return
    models = plan["models"]
    yield Finding("ok", "config", f"{where.models} and {where.routes.name} are valid")
    for model in models:
        state = model["state"]
        if state == "invalid":
            remedy = "remove the file or copy it again; ./console.sh models shows all"
            yield Finding("fail", "model", f"{model['id']}: {model['state_detail']}", remedy)
        elif state != "present" and model["running"]:
            found = f"{model['id']} is {state}, so the smoke model may have to stand in"
            yield Finding("warn", "model", found, "./console.sh add")
        elif state == "present":
            yield Finding("ok", "model", f"{model['id']} is there and whole")
    running = [model for model in models if model["running"]]
    names = " and ".join(model["id"] for model in running)
    yield memory(names, sum(model["memory_bytes"] for model in running))
    yield from disk(where, models)
    yield from ports(where, plan)
    for problem in missing_keys(where.secrets_dir, plan["routes"]["models"]):
        yield Finding("fail", "secrets", f"{problem.where}: {problem.found}", problem.remedy)


def memory(name: str, needed: int) -> Finding:
    """Compares what a model needs (bytes, estimated) with what the machine has."""
    total = total_memory()
    found = f"{name} needs about {size(needed)} of {size(total)}"
    if needed > total:
        return Finding("fail", "memory", found, "choose a smaller model or a smaller n_ctx")
    if needed > 0.8 * total:
        return Finding("warn", "memory", found, "expect swapping; a smaller n_ctx needs less")
    return Finding("ok", "memory", found)


def disk(where: Where, models: list[dict[str, Any]]) -> Iterator[Finding]:
    """Free space for the models that are still to be fetched, and for all else."""
    folder = where.models_dir if where.models_dir.is_dir() else Path()
    free = shutil.disk_usage(folder).free
    missing = sum(
        file["size"] or 0
        for model in models
        if model["state"] != "present"
        for file in model["files"]
    )
    found = f"{size(free)} free, models to fetch need {size(missing)}"
    if free < missing + 200_000_000:
        yield Finding("fail", "disk", found, f"make room on the disk of {folder.resolve()}")
    elif free < missing + 2_000_000_000:
        yield Finding("warn", "disk", found, "an installation from scratch needs 2 GB more")
    else:
        yield Finding("ok", "disk", found)


def ports(where: Where, plan: dict[str, Any]) -> Iterator[Finding]:
    """Ports that another program holds, and addresses that we can't have.

    A Postgres elsewhere (POSTGRES_AUTH_HOST) needs none.
    """
    host = os.environ.get("LLAMA_PROXY_HOST") or "127.0.0.1"
    services = {"proxy": (host, int(os.environ.get("LLAMA_PROXY_PORT") or 8001))}
    if not os.environ.get("POSTGRES_AUTH_HOST"):
        port = int(os.environ.get("POSTGRES_AUTH_PORT") or 5433)
        services["postgres"] = ("127.0.0.1", port)
    wants = Wants(
        "local",
        where.state_dir,
        where.models_dir,
        where.state_dir,
        services,
        manager=chosen_manager(where.state_dir),
    )
    busy = [*refused_addresses(wants, plan), *busy_ports(wants, plan)]
    for problem in busy:
        yield Finding("fail", "ports", f"{problem.where}: {problem.found}", problem.remedy)
    if not busy:
        running = [model["port"] for model in plan["models"] if model["running"]]
        numbers = [*running, *(port for _, port in services.values())]
        found = f"{', '.join(map(str, numbers))} are free or used by llamakit"
        yield Finding("ok", "ports", found)


def secrets(where: Where) -> Iterator[Finding]:
    """Nobody but the services' user may read keys and passwords."""
    if not where.secrets_dir.is_dir():
        return
    try:
        files = list(where.secrets_dir.iterdir())
    except PermissionError:
        yield Finding("ok", "secrets", f"{where.secrets_dir} is closed to us, as it should be")
        return
    open_to_others = [f for f in files if stat.S_IMODE(f.stat().st_mode) & 0o077]
    if open_to_others:
        names = " ".join(str(file) for file in open_to_others)
        yield Finding("fail", "secrets", f"others can read {names}", f"chmod 600 {names}")
    else:
        yield Finding("ok", "secrets", "readable by the services' user alone")


CHECKS = (configuration, secrets)
