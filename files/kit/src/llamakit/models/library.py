"""What lies in the models folder: the files of known models, and models that were copied there."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamakit.config.entries import Source
from llamakit.models.gguf_header import GgufError, Header, read_header
from llamakit.models.shards import ShardName, stem_of

State = Literal["present", "missing", "partial", "invalid"]


@dataclass(frozen=True, slots=True)
class FileState:
    """Whether a model's files can be loaded, as far as their headers tell."""

    state: State
    detail: str
    header: Header | None = None  # of the first file


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model nobody listed: its files in order, the first is what is loaded."""

    id: str
    alias: str
    files: tuple[Path, ...]


def source_files(source: Source, models_dir: Path) -> list[Path]:
    """Where the files of a listed model lie, or will lie once fetched.

    They are taken from where they are: in the folder itself or in one named after the model. A
    fetched sharded model gets a folder of its own.
    """
    if source.kind == "path":
        place = os.path.expanduser(source.place)  # noqa: PTH111 - it may stay relative
        first = models_dir / place  # an absolute path stands for itself
        return [first.with_name(name) for name in source.names]
    names = source.names
    own = models_dir / stem_of(names[0])
    folder = own if len(names) > 1 else models_dir
    for candidate in (models_dir, own):
        if (candidate / names[0]).exists():
            folder = candidate
            break
    return [folder / name for name in names]


def inspect(files: Sequence[Path], sizes: Sequence[int | None] = ()) -> FileState:
    """Checks that all files are there, whole by their headers and sizes, and belong together.

    Args:
        files: all files of the model, in order.
        sizes: the sizes they should have (bytes), where known.
    """
    try:
        absent = [file for file in files if not file.is_file()]
        parts = [file for file in files if part_of(file).exists()]
    except OSError as error:
        return FileState("invalid", f"{error.filename}: {error.strerror}")
    if len(absent) == len(files):
        if parts:
            megabytes = part_of(parts[0]).stat().st_size / 1e6
            return FileState("partial", f"{megabytes:.0f} MB downloaded; run: ./console.sh add")
        return FileState("missing", f"{files[0]} is not there")
    if absent:
        names = ", ".join(file.name for file in absent[:3])
        return FileState("partial", f"{len(absent)} of {len(files)} files are missing: {names}")
    first: Header | None = None
    expected = [*sizes, *[None] * len(files)]
    for number, file in enumerate(files):
        try:
            header = _whole_header(file, expected[number])
            _check_place(header, number, len(files))
        except (GgufError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return FileState("invalid", f"{file}: {reason}")
        first = first or header
    return FileState("present", "", first)


def part_of(file: Path) -> Path:
    """Where a file lies while it is downloaded."""
    return file.with_name(file.name + ".part")


def find_models(models_dir: Path, listed: Collection[Path]) -> list[FoundModel]:
    """Models in the folder, or one folder below, that no entry lists; sorted by id."""
    taken = {file.resolve() for file in listed}
    found: dict[str, FoundModel] = {}
    for files in _groups(models_dir):
        if any(file.resolve() in taken for file in files):
            continue
        stem = stem_of(files[0].name)
        base = model_id = sensible_id(stem)
        number = 2
        while model_id in found:
            model_id, number = f"{base}-{number}", number + 1
        found[model_id] = FoundModel(model_id, files[0].name, tuple(files))
    return [found[key] for key in sorted(found)]


def sensible_id(stem: str) -> str:
    """A model id made from a file name: lower case letters, digits, dots and dashes."""
    text = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    return text[:64].rstrip("-._") or "model"


def _groups(models_dir: Path) -> Iterator[list[Path]]:
    """The files of each model on disk; of an incomplete sharded one also those that are missing."""
    if not models_dir.is_dir():
        return
    candidates = sorted([*models_dir.glob("*"), *models_dir.glob("*/*")])
    sharded: set[tuple[Path, str, int]] = set()
    for file in candidates:
        # Projectors for images (mmproj) belong to a model and are none themselves.
        if file.suffix.lower() != ".gguf" or file.name.startswith((".", "mmproj")):
            continue
        if not file.is_file():
            continue
        shard = ShardName.parse(file.name)
        if shard is None:
            yield [file]
        elif (key := (file.parent, shard.stem, shard.count)) not in sharded:
            sharded.add(key)
            yield [file.with_name(name) for name in shard.all_names()]


def _whole_header(file: Path, size: int | None) -> Header:
    header = read_header(file)
    actual = file.stat().st_size
    if actual < header.required_size:
        raise GgufError(
            f"it has {actual} bytes, its header needs {header.required_size}: "
            "copied or downloaded incompletely"
        )
    if size is not None and actual != size:
        raise GgufError(f"it has {actual} bytes, config/models.yaml says {size}")
    return header


def _check_place(header: Header, number: int, count: int) -> None:
    own_number, own_count = header.split
    if (own_number, own_count) != (number, count):
        said = f"shard {own_number + 1} of {own_count}" if own_count > 1 else "a whole model"
        named = f"shard {number + 1} of {count}" if count > 1 else "a whole model"
        raise GgufError(f"it is {said} by its header, but {named} by its name: renamed?")
