"""Reads config/models.yaml, the one source of truth for models."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from llamakit.config.entries import Kind, ModelEntry, Source
from llamakit.config.problems import ConfigError, Problem, shorten
from llamakit.config.schema_check import load_schema, schema_problems
from llamakit.config.yaml_source import YamlSource, load_yaml
from llamakit.engines import DEFAULT_ENGINE, engines
from llamakit.models.shards import ShardName, file_names, stem_of

MODEL_KEYS = frozenset(["id", "aliases", "source", "engine", "kind", "port", "max_tokens", "tools"])


def load_models(file: Path) -> list[ModelEntry]:
    """Reads and checks the file.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    source = load_yaml(file)
    problems = list(_refused_keys(source))
    problems += schema_problems(_without_refused(source), load_schema("models.schema.json"))
    if problems:
        raise ConfigError(problems)
    problems = list(_contradictions(source))
    if problems:
        raise ConfigError(problems)
    data = source.data or {}
    defaults = data.get("defaults") or {}
    return [
        _entry(source, index, {**defaults, **model})
        for index, model in enumerate(data.get("models") or [])
    ]


def _entry(source: YamlSource, index: int, model: Mapping[str, Any]) -> ModelEntry:
    settings = {key: value for key, value in model.items() if key not in MODEL_KEYS}
    embedding = settings.pop("embedding", None)
    kind: Kind | None = model.get("kind") or ("embedding" if embedding else None)
    return ModelEntry(
        id=model["id"],
        aliases=tuple(model.get("aliases") or ()),
        source=_source(model["source"]),
        engine=engines()[model.get("engine", DEFAULT_ENGINE)],
        kind=kind,
        port=model.get("port"),
        max_tokens=model.get("max_tokens"),
        tools=model.get("tools"),
        settings=settings,
        where=source.where(["models", index]),
    )


def _source(given: Mapping[str, Any]) -> Source:
    kind: Literal["hf", "url", "path"] = (
        "hf" if "hf" in given else "url" if "url" in given else "path"
    )
    place = str(given[kind])
    file = given.get("file") or PurePosixPath(urlsplit(place).path if kind == "url" else place).name
    count = len(file_names(PurePosixPath(file).name))
    return Source(
        kind,
        place,
        file,
        given.get("revision", "main"),
        _per_file(given.get("sha256"), count),
        _per_file(given.get("size"), count),
    )


def _per_file(value: Any, count: int) -> tuple[Any, ...]:
    if isinstance(value, list):
        return tuple(value)
    return (value,) if count == 1 else (None,) * count


def _refused_keys(source: YamlSource) -> Iterator[Problem]:
    """Settings the server knows and nobody may set, with the reason."""
    for path, mapping in _setting_maps(source):
        for key in mapping:
            reason = _refusal(mapping, key)
            if reason:
                yield Problem(
                    source.where([*path, key]), f"the setting {key!r}", reason, "remove this line"
                )


def _without_refused(source: YamlSource) -> YamlSource:
    """The file without the keys that have been explained, for the schema to judge the rest."""
    data = copy.deepcopy(source.data)
    copied = YamlSource(source.file, data, source.lines)
    for _, mapping in _setting_maps(copied):
        for key in [key for key in mapping if _refusal(mapping, key)]:
            del mapping[key]
    return copied


def _refusal(mapping: Mapping[str, Any], key: str) -> str | None:
    engine = engines().get(str(mapping.get("engine", DEFAULT_ENGINE)))
    return engine.refused.get(key) if engine else None


def _setting_maps(source: YamlSource) -> Iterator[tuple[list[str | int], dict[str, Any]]]:
    data = source.data if isinstance(source.data, dict) else {}
    if isinstance(data.get("defaults"), dict):
        yield ["defaults"], data["defaults"]
    models = data.get("models")
    for index, model in enumerate(models if isinstance(models, list) else []):
        if isinstance(model, dict):
            yield ["models", index], model


def _contradictions(source: YamlSource) -> Iterator[Problem]:
    """What a schema can't tell: names and ports used twice, sources that don't fit."""
    names: dict[str, str] = {}
    ports: dict[int, str] = {}
    fetched: dict[str, tuple[str, Source]] = {}
    for path, model in _setting_maps(source):
        if path == ["defaults"]:
            continue
        for where, name in _names(path, model):
            # Compared without case: two models must not differ by that alone.
            owner = names.setdefault(name.lower(), source.where(where))
            if owner != source.where(where):
                yield Problem(
                    source.where(where),
                    f"the name {name!r} a second time (first: {owner})",
                    "every id and alias once in the file",
                    "rename or remove one of them",
                )
        if (port := model.get("port")) is not None:
            if port in ports:
                yield Problem(
                    source.where([*path, "port"]),
                    f"port {port}, which the model {ports[port]!r} has already",
                    "a port of its own for every model",
                    "change it, or remove the line to get one by itself",
                )
            ports.setdefault(port, model["id"])
        if model.get("kind") == "chat" and model.get("embedding"):
            yield Problem(
                source.where([*path, "kind"]),
                "kind: chat with embedding: true",
                "one of them",
                "remove embedding: (it means kind: embedding)",
            )
        wrong = list(_source_problems(source, [*path, "source"], model["source"]))
        yield from wrong
        if not wrong and (origin := _source(model["source"])).kind != "path":
            # What is fetched gets the name it has there, whichever folder or repository that is.
            owner, first = fetched.setdefault(origin.names[0], (model["id"], origin))
            if _place(first) != _place(origin):
                yield Problem(
                    source.where([*path, "source"]),
                    f"the file {origin.names[0]}, which the model {owner!r} gets from elsewhere",
                    "files of different names: both would be the same one in models/",
                    "put one there yourself, under another name, and give it with path:",
                )


def _place(source: Source) -> tuple[str, str, str, str]:
    return source.kind, source.place, source.file, source.revision


def _names(
    path: list[str | int], model: Mapping[str, Any]
) -> Iterator[tuple[list[str | int], str]]:
    yield [*path, "id"], model["id"]
    for index, alias in enumerate(model.get("aliases") or []):
        yield [*path, "aliases", index], alias


def _source_problems(
    source: YamlSource, path: list[str | int], given: Mapping[str, Any]
) -> Iterator[Problem]:
    where = source.where(path)
    kinds = [kind for kind in ("hf", "url", "path") if kind in given]
    if len(kinds) != 1:
        yield Problem(
            where,
            " and ".join(kinds) or "no place to get the file from",
            "exactly one of hf: (a repository of the hub), url: or path:",
            "keep one",
        )
        return
    kind = kinds[0]
    if kind == "url":
        try:
            urlsplit(given["url"])
        except ValueError as error:
            yield Problem(where, f"an address that is none ({error})", "a URL", "correct it")
            return
    if kind == "hf" and "file" not in given:
        yield Problem(
            where,
            "hf: without file:",
            "the name of the .gguf file in the repository",
            f"add file:, as listed at https://huggingface.co/{given['hf']}/tree/main",
        )
        return
    extra = [key for key in ("file", "revision") if key in given and kind != "hf"]
    if extra:
        yield Problem(
            source.where([*path, extra[0]]),
            f"{extra[0]}: beside {kind}:",
            f"{extra[0]}: only beside hf:",
            f"remove this line; {kind}: names the file itself",
        )
    name = PurePosixPath(urlsplit(given["url"]).path if kind == "url" else given.get("file", ""))
    name = PurePosixPath(given["path"]) if kind == "path" else name
    if not name.name.lower().endswith(".gguf"):
        yield Problem(
            where, f"the file {shorten(name.name)}", "a name that ends in .gguf", "correct it"
        )
        return
    shard = ShardName.parse(name.name)
    if shard and shard.number != 1:
        yield Problem(
            where,
            f"shard {shard.number} of {shard.count}",
            "the first shard, which llama.cpp loads; the others are found by their names",
            f"write {shard.all_names()[0]}",
        )
        return
    count = shard.count if shard else 1
    for key in ("sha256", "size"):
        value = given.get(key)
        length = len(value) if isinstance(value, list) else 1
        if value is not None and length != count:
            yield Problem(
                source.where([*path, key]),
                f"{length} for {count} files ({stem_of(name.name)})",
                f"a list of {count}, one a shard" if count > 1 else "a single value",
                "complete or remove it",
            )
