"""The routes of the proxy: those of the running models, and what the user changed or added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamakit.config.entries import Route
from llamakit.config.problems import ConfigError, Problem, did_you_mean
from llamakit.engines import DEFAULT_ENGINE, engines
from llamakit.models.tool_dialect import NO_TOOLS
from llamakit.smoke.stand_in import SMOKE_ID

KEY_SECRET = "llama_api_key"  # noqa: S105 - the name of a file, not a secret


def derive_route(model: dict[str, Any]) -> Route:
    """The route to a running model of the plan."""
    host = model["server"]["host"]
    address = f"[{host}]" if ":" in host else host
    file = Path(model["path"])
    # Without a limit of its own, a model has the proxy's (LLAMA_PROXY_MAX_TOKENS).
    limit = {"max_tokens": model["max_tokens"]} if model["max_tokens"] else {}
    return {
        "id": model["id"],
        "aliases": model["aliases"],
        "created": int(file.stat().st_mtime) if file.exists() else 0,
        "owned_by": SMOKE_ID if model["stand_in"] else "llamakit",
        "kind": model["kind"],
        "n_ctx": model["n_ctx"],
        **limit,
        "logprobs": bool(model["settings"]["logits_all"]),
        "tools": model["tools"],
        "backends": [
            {
                "url": f"http://{address}:{model['port']}",
                "api_key_secret": KEY_SECRET,
                "capacity": model["capacity"],
                "engine": model["engine"],
            }
        ],
    }


def merge_routes(
    derived: Sequence[Route], overrides: Sequence[Route], file: Path, names: Mapping[str, str]
) -> list[Route]:
    """The routes of the running models with the overrides over them.

    An override for an id that does not run here adds a route when it names backends of its own.
    ``names`` are the ids and aliases of all models here, each with the model's id.

    Raises:
        ConfigError: a name would lead to two models, or an override to none.
    """
    _refuse_without_model(overrides, file, names)
    routes = {route["id"]: dict(route) for route in derived}
    for override in overrides:
        route = routes.get(override["id"])
        if route is None:
            if not override.get("backends"):
                continue
            route = routes[override["id"]] = _remote(override["id"])
        given = {key: value for key, value in override.items() if key != "backends"}
        given["aliases"] = [*route["aliases"], *override.get("aliases", [])]
        if override.get("backends"):
            given["backends"] = [_backend(backend) for backend in override["backends"]]
        route |= given
    _refuse_shared_names(routes, file)
    return list(routes.values())


def _remote(model_id: str) -> Route:
    return {
        "id": model_id,
        "aliases": [],
        "created": 0,
        "owned_by": "llamakit",
        "kind": "chat",
        "n_ctx": 4096,
        "logprobs": False,
        "tools": NO_TOOLS,
        "backends": [],
    }


def _backend(given: Route) -> Route:
    engine = engines()[given.get("engine", DEFAULT_ENGINE)]
    return {
        "url": given["url"].rstrip("/"),
        "api_key_secret": given.get("api_key_secret"),
        "capacity": given.get("capacity", engine.capacity),
        "engine": engine.name,
    }


def _refuse_without_model(overrides: Sequence[Route], file: Path, names: Mapping[str, str]) -> None:
    known = {*names.values(), SMOKE_ID}
    owners = {name.lower(): model for name, model in names.items()}
    problems = []
    for override in overrides:
        wanted = override["id"]
        if wanted in known or override.get("backends"):
            continue
        meant = f"did you mean {owners[wanted]!r}?" if wanted in owners else ""
        meant = meant or did_you_mean(wanted, names.values())
        problems.append(
            Problem(
                f"{file}: {wanted}",
                "an entry without backends for an id that no model here has, so that it changes "
                "nothing",
                "the id of a model (./console.sh models), or backends" + f"; {meant}" * bool(meant),
                "correct the id, add backends for a model that runs elsewhere, or remove the entry",
            )
        )
    if problems:
        raise ConfigError(problems)


def _refuse_shared_names(routes: dict[str, Route], file: Path) -> None:
    owners: dict[str, str] = {}
    problems = []
    for route in routes.values():
        for name in dict.fromkeys([route["id"], *route["aliases"]]):
            owner = owners.setdefault(name.lower(), route["id"])
            if owner != route["id"]:
                problems.append(
                    Problem(
                        str(file),
                        f"the name {name!r} for both {owner!r} and {route['id']!r}",
                        "every id and alias once",
                        f"remove the alias from {file.name}",
                    )
                )
    if problems:
        raise ConfigError(problems)
