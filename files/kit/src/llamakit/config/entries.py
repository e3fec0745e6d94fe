"""What the user configured, checked: the form it has between the controller and a host."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from llamakit.config.problems import ConfigError, Problem
from llamakit.engines import Engine, engines
from llamakit.models.shards import file_names

Kind = Literal["chat", "embedding"]
Route = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files come from; one checksum and size (bytes) a file, None if not given.

    ``place`` is the repository of a hub, a URL, or a path on the machine that serves the model.
    """

    kind: Literal["hf", "url", "path"]
    place: str
    file: str  # path inside the repository; else the base name
    revision: str
    sha256: tuple[str | None, ...]
    sizes: tuple[int | None, ...]

    @property
    def names(self) -> list[str]:
        """Base names of all files, in order."""
        return file_names(PurePosixPath(self.file).name)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model as the user describes it."""

    id: str
    aliases: tuple[str, ...]
    source: Source
    engine: Engine
    kind: Kind | None  # None: what the file says
    port: int | None
    max_tokens: int | None
    tools: str | None  # None: what the file says
    settings: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Config:
    """models.yaml and proxy_routes.yaml; the files are named for messages only."""

    models_file: Path
    models: tuple[ModelEntry, ...]
    routes_file: Path = Path("config/proxy_routes.yaml")
    routes: tuple[Route, ...] = ()

    def document(self) -> dict[str, Any]:
        """All of it as one JSON-able document, which ``from_document`` reads again."""
        return {
            "models_file": str(self.models_file),
            "routes_file": str(self.routes_file),
            "models": [
                {
                    "id": entry.id,
                    "aliases": list(entry.aliases),
                    "source": dataclasses.asdict(entry.source),
                    "engine": entry.engine.name,
                    "kind": entry.kind,
                    "port": entry.port,
                    "max_tokens": entry.max_tokens,
                    "tools": entry.tools,
                    "settings": dict(entry.settings),
                    "where": entry.where,
                }
                for entry in self.models
            ],
            "routes": list(self.routes),
        }


def from_document(document: Mapping[str, Any]) -> Config:
    """The configuration that ``Config.document`` has written down."""
    return Config(
        models_file=Path(document["models_file"]),
        models=tuple(_entry(model) for model in document["models"]),
        routes_file=Path(document["routes_file"]),
        routes=tuple(document["routes"]),
    )


def parse_document(text: str) -> Config:
    """Reads what ``read-config`` has printed.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return from_document(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:70]
        raise ConfigError(
            [
                Problem(
                    "--config",
                    f"something that can't be read ({reason})",
                    "the JSON document that `llamakit read-config` prints",
                    "llamakit read-config --models FILE --routes FILE",
                )
            ]
        ) from error


def _entry(model: Mapping[str, Any]) -> ModelEntry:
    source = model["source"]
    return ModelEntry(
        id=model["id"],
        aliases=tuple(model["aliases"]),
        source=Source(
            **{**source, "sha256": tuple(source["sha256"]), "sizes": tuple(source["sizes"])}
        ),
        engine=engines()[model["engine"]],
        kind=model["kind"],
        port=model["port"],
        max_tokens=model["max_tokens"],
        tools=model["tools"],
        settings=model["settings"],
        where=model["where"],
    )
