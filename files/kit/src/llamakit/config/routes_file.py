"""Reads config/proxy_routes.yaml, which overrides and completes the routes made from the models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamakit.config.problems import ConfigError, Problem
from llamakit.config.schema_check import load_schema, schema_problems
from llamakit.config.yaml_source import load_yaml
from llamakit.engines import DEFAULT_ENGINE, engines

Route = dict[str, Any]


def load_overrides(file: Path) -> list[Route]:
    """The entries of the file; none when there is no such file.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    if not file.exists():
        return []
    source = load_yaml(file)
    problems = schema_problems(source, load_schema("proxy_routes.schema.json"))
    if problems:
        raise ConfigError(problems)
    overrides: list[Route] = (source.data or {}).get("models") or []
    seen: set[str] = set()
    for index, override in enumerate(overrides):
        if override["id"] in seen:
            problems.append(
                Problem(
                    source.where(["models", index, "id"]),
                    f"the id {override['id']!r} a second time",
                    "one entry a model",
                    "join the two",
                )
            )
        seen.add(override["id"])
    if problems:
        raise ConfigError(problems)
    return overrides


def merge_routes(derived: Sequence[Route], overrides: Sequence[Route], file: Path) -> list[Route]:
    """The routes of the running models with the overrides over them.

    An override for an id that does not run here adds a route when it names backends of its own.

    Raises:
        ConfigError: a name would lead to two models.
    """
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
