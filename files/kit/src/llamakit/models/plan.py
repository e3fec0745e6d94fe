"""Derives everything else from models.yaml: files, ports, settings and routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamakit.config.entries import Config, Kind, ModelEntry, Source
from llamakit.config.problems import ConfigError, Problem, did_you_mean
from llamakit.engines import DEFAULT_ENGINE, Engine, Request, engines
from llamakit.models.library import FileState, find_models, inspect, part_of, source_files
from llamakit.models.memory import estimate_memory
from llamakit.models.plan_options import PlanOptions
from llamakit.models.ports import MAX_PORT, assign_ports
from llamakit.models.routes import derive_route, merge_routes
from llamakit.models.tool_dialect import NO_TOOLS, tool_dialect
from llamakit.smoke.stand_in import CONTEXT_LENGTH, SMOKE_ID, stand_in


@dataclass(slots=True)
class Candidate:
    """A model that could run: listed, found, or the stand-in."""

    id: str
    aliases: tuple[str, ...]
    engine: Engine
    kind: Kind
    files: tuple[Path, ...]
    state: FileState
    source: Source | None
    settings: dict[str, Any]
    max_tokens: int | None = None
    tools: str | None = None
    fixed_port: int | None = None
    port: int = 0
    stand_in: bool = False
    where: str = ""

    @property
    def present(self) -> bool:
        return self.state.state == "present"


def build_plan(config: Config, options: PlanOptions) -> dict[str, Any]:
    """The plan as one JSON-able document.

    Raises:
        ConfigError: with everything that is wrong in the configuration.
    """
    candidates = list_candidates(config, options.models_dir)
    _give_ports(candidates, options)
    chosen = choose(config, candidates, options)
    running = _running(candidates, chosen, options)
    if chosen.stand_in:
        candidates = [chosen, *candidates]
    models = [_describe(candidate, candidate in running, options) for candidate in candidates]
    names = {name: model["id"] for model in models for name in (*model["aliases"], model["id"])}
    derived = [derive_route(model) for model in models if model["running"]]
    return {
        "mode": options.mode,
        "selected": chosen.id,
        "port": chosen.port,
        "models": models,
        "routes": {"models": merge_routes(derived, config.routes, config.routes_file, names)},
        "remember": _to_remember(candidates, chosen, options),
    }


def list_candidates(config: Config, models_dir: Path) -> list[Candidate]:
    """Listed models in the order of the file, then those found in the folder, by id."""
    entries = config.models
    candidates = [_listed(entry, models_dir) for entry in entries]
    names = {name.lower() for entry in entries for name in (entry.id, *entry.aliases)}
    listed = [file for candidate in candidates for file in candidate.files]
    for found in find_models(models_dir, listed):
        state = inspect(found.files)
        if state.header is not None and not state.header.is_model:
            continue
        model_id, number = found.id, 2
        while model_id in names:
            model_id, number = f"{found.id}-{number}", number + 1
        names.add(model_id)
        aliases = () if found.alias.lower() in names else (found.alias,)
        names.update(alias.lower() for alias in aliases)
        candidates.append(
            Candidate(
                id=model_id,
                aliases=aliases,
                engine=engines()[DEFAULT_ENGINE],
                kind=_kind(None, state),
                files=found.files,
                state=state,
                source=None,
                settings={},
                where=str(found.files[0]),
            )
        )
    return candidates


def _listed(entry: ModelEntry, models_dir: Path) -> Candidate:
    files = tuple(source_files(entry.source, models_dir))
    state = inspect(files, entry.source.sizes)
    return Candidate(
        id=entry.id,
        aliases=entry.aliases,
        engine=entry.engine,
        kind=_kind(entry.kind, state),
        files=files,
        state=state,
        source=entry.source,
        settings=dict(entry.settings),
        max_tokens=entry.max_tokens,
        tools=entry.tools,
        fixed_port=entry.port,
        where=entry.where,
    )


def _kind(given: Kind | None, state: FileState) -> Kind:
    if given is not None:
        return given
    return "embedding" if state.header is not None and state.header.is_embedding else "chat"


def _give_ports(candidates: Sequence[Candidate], options: PlanOptions) -> None:
    problems = [
        Problem(
            candidate.where,
            f"port {candidate.fixed_port}, which llamakit uses for another service",
            f"a port that is none of {', '.join(map(str, sorted(options.reserved_ports)))}",
            "change port:, or remove the line to get one by itself",
        )
        for candidate in candidates
        if candidate.fixed_port in options.reserved_ports
    ]
    if problems:
        raise ConfigError(problems)
    # A half-copied file comes last, so that the others get the ports they always had.
    ordered = sorted(candidates, key=lambda c: c.source is None and not c.present)
    fixed = {candidate.id: candidate.fixed_port for candidate in ordered}
    ports = assign_ports(fixed, options.kept_ports, options.port_base, options.reserved_ports)
    problems = [
        Problem(
            candidate.where,
            f"port {ports[candidate.id]}, counted from {options.port_base}",
            f"a port up to {MAX_PORT}",
            "lower LLAMA_SERVER_PORT (on hosts llama_server_port), or give it a port: of its own",
        )
        for candidate in candidates
        if ports[candidate.id] > MAX_PORT
    ]
    if problems:
        raise ConfigError(problems)
    for candidate in candidates:
        candidate.port = ports[candidate.id]


def _to_remember(
    candidates: Sequence[Candidate], chosen: Candidate, options: PlanOptions
) -> dict[str, Any]:
    """What the next plan is to know of this one; ``last_choice`` reads it."""
    given = {c.id: c.port for c in candidates if c.fixed_port is None and not c.stand_in}
    return {
        "mode": options.mode,
        "model": chosen.id,
        "port_base": options.port_base,
        "ports": given,
    }


def choose(config: Config, candidates: Sequence[Candidate], options: PlanOptions) -> Candidate:
    """The selected model: the one asked for, else the one remembered while it exists, else the
    first that is there, chat models before others, else the first.

    When no file of any model is there and the smoke model may stand in, it takes the place of the
    one that would have been selected, and is made if it isn't there yet.
    """
    default = resolve(candidates, options.model, config.models_file) if options.model else None
    if default is None:
        default = next((c for c in candidates if c.id == options.remembered), None)
    if default is None:
        # min() keeps the order of equals.
        default = min(candidates, key=lambda c: (not c.present, c.kind != "chat"), default=None)
    nothing_there = not any(candidate.present for candidate in candidates)
    if options.allow_smoke and nothing_there:
        return _stand_in(default, options)
    if default is None:
        raise ConfigError(
            [
                Problem(
                    str(config.models_file),
                    f"no model, and none under {options.models_dir}",
                    "at least one entry under models:",
                    f"restore the shipped file: git checkout {config.models_file}",
                )
            ]
        )
    return default


def resolve(candidates: Sequence[Candidate], name: str, file: Path) -> Candidate | None:
    """The model of that id, alias or number (from 1); None for the smoke model's id.

    Raises:
        ConfigError: there is no such model; the nearest name is suggested.
    """
    known: dict[str, str] = {}
    for candidate in candidates:
        known |= dict.fromkeys((candidate.id, *candidate.aliases), candidate.id)
    lower = {key.lower(): value for key, value in known.items()}
    wanted = known.get(name) or lower.get(name.lower())
    if wanted is not None:
        return next(candidate for candidate in candidates if candidate.id == wanted)
    if name == SMOKE_ID:
        return None
    if name.isdecimal() and 1 <= int(name) <= len(candidates):
        return candidates[int(name) - 1]
    raise _unknown_model(name, known, file)


def _unknown_model(name: str, known: Mapping[str, str], file: Path) -> ConfigError:
    """The error for a name that no model has; ``known`` maps names to ids."""
    suggestion = did_you_mean(name, known)
    ids = ", ".join(sorted(set(known.values()))[:8])
    return ConfigError(
        [
            Problem(
                f"the model's name {name!r}",
                f"neither {file.name} nor the models folder has a model of that name",
                f"{suggestion} " * bool(suggestion) + f"an id, alias or number, such as: {ids}",
                "list them with: ./console.sh models",
            )
        ]
    )


def _stand_in(default: Candidate | None, options: PlanOptions) -> Candidate:
    path, state = stand_in(options.smoke_dir, make=options.make_smoke)
    names = (default.id, *default.aliases) if default is not None else ()
    return Candidate(
        id=SMOKE_ID,
        aliases=tuple(name for name in names if name != SMOKE_ID),
        engine=engines()[DEFAULT_ENGINE],
        kind="chat",
        files=(path,),
        state=state,
        source=None,
        settings={"n_ctx": CONTEXT_LENGTH},
        max_tokens=default.max_tokens if default is not None else None,
        port=default.port if default is not None else options.port_base,
        stand_in=True,
    )


def _running(
    candidates: Sequence[Candidate], chosen: Candidate, options: PlanOptions
) -> list[Candidate]:
    """The models that run in this mode.

    With several, one that is missing is fetched first; where that is known to be impossible (the
    smoke model may stand in), and for files nobody listed, only what is there runs.
    """
    if options.mode == "single" or chosen.stand_in:
        return [chosen]
    return [
        candidate
        for candidate in candidates
        if candidate.present or (candidate.source is not None and not options.allow_smoke)
    ]


def _describe(candidate: Candidate, running: bool, options: PlanOptions) -> dict[str, Any]:
    engine, source, header = candidate.engine, candidate.source, candidate.state.header
    settings = engine.model_settings(
        Request(
            path=str(candidate.files[0].absolute()),
            name=candidate.id,
            embedding=candidate.kind == "embedding",
            gpu_layers=options.gpu_layers,
            settings=candidate.settings,
            header=header,
        )
    )
    checksums = source.sha256 if source else (None,) * len(candidate.files)
    sizes = source.sizes if source else (None,) * len(candidate.files)
    on_disk = sum(file.stat().st_size for file in candidate.files if file.is_file())
    return {
        "id": candidate.id,
        "aliases": list(candidate.aliases),
        "engine": engine.name,
        "command": list(engine.command),
        "probe": dict(engine.probe),
        "kind": candidate.kind,
        "port": candidate.port,
        "running": running,
        "state": candidate.state.state,
        "state_detail": candidate.state.detail,
        "path": str(candidate.files[0].absolute()),
        "files": [
            {"path": str(file.absolute()), "sha256": checksum, "size": size}
            for file, checksum, size in zip(candidate.files, checksums, sizes, strict=True)
        ],
        "missing_bytes": _missing_bytes(candidate.files, sizes),
        "source": _source(source),
        "settings": settings,
        "server": engine.server_settings(options.bind_host, candidate.port),
        "n_ctx": settings["n_ctx"],
        "max_tokens": candidate.max_tokens,
        "tools": candidate.tools or tool_dialect(header, settings) or NO_TOOLS,
        "capacity": engine.capacity,
        "stand_in": candidate.stand_in,
        "memory_bytes": estimate_memory(max(on_disk, sum(filter(None, sizes))), header, settings),
    }


def _missing_bytes(files: Sequence[Path], sizes: Sequence[int | None]) -> int:
    """Bytes still to be fetched, as far as the sizes are known."""
    total = 0
    for file, expected in zip(files, sizes, strict=True):
        if not file.is_file() and expected:
            part = part_of(file)
            total += max(expected - (part.stat().st_size if part.is_file() else 0), 0)
    return total


def _source(source: Source | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return {
        "kind": source.kind,
        "place": source.place,
        "file": source.file,
        "revision": source.revision,
    }
