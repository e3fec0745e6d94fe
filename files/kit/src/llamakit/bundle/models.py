"""Which models go into a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamakit.bundle.archive import Member
from llamakit.bundle.errors import BundleError
from llamakit.bundle.manifest import FOLDER
from llamakit.config.entries import Config
from llamakit.fetch.cli import fetch_model
from llamakit.fetch.stamps import Stamps
from llamakit.models.plan import Candidate, list_candidates, resolve


@dataclass(slots=True)
class Chosen:
    """The files of the models to pack, by id, and why others are left out."""

    models: dict[str, list[Member]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def members(self) -> list[Member]:
        """Each file once, though models may share one."""
        files = {member.path: member for files in self.models.values() for member in files}
        return list(files.values())


def choose_models(config: Config, models_dir: Path, named: Sequence[str]) -> Chosen:
    """The named models, which are fetched when they are missing, or the listed ones that are here.

    Raises:
        FetchError: a named one can't be had.
        BundleError: a named one can't be packed.
    """
    candidates = list_candidates(config, models_dir)
    chosen = Chosen()
    for candidate in _wanted(candidates, named, config.models_file):
        if named and not candidate.present:
            fetch_model(candidate, Stamps(None), "auto")
        reason = _reason_against(candidate, models_dir)
        if not reason:
            chosen.models[candidate.id] = _members(candidate, models_dir)
        elif named:
            raise BundleError(
                f"{candidate.id}: {reason}",
                f"its files below {models_dir}",
                f"take it there, with an entry in {config.models_file} that names it so",
            )
        else:
            chosen.left_out.append(f"{candidate.id}: {reason}")
    return chosen


def _wanted(candidates: Sequence[Candidate], named: Sequence[str], file: Path) -> list[Candidate]:
    if not named:
        return [candidate for candidate in candidates if candidate.source is not None]
    found = (resolve(candidates, name, file) for name in named)
    return [candidate for candidate in found if candidate is not None]


def _reason_against(candidate: Candidate, models_dir: Path) -> str:
    if not candidate.present:
        return (
            f"{candidate.state.state} ({candidate.state.detail}); --model {candidate.id} fetches it"
        )
    if not all(_plain(file).is_relative_to(models_dir) for file in candidate.files):
        return f"its path: is {candidate.files[0]}, which each host has for itself"
    return ""


def _plain(file: Path) -> Path:
    """Without the .. that a path: may have."""
    return Path(os.path.normpath(file))


def _members(candidate: Candidate, models_dir: Path) -> list[Member]:
    sums = candidate.source.sha256 if candidate.source else ()
    return [
        Member(
            f"{FOLDER}/models/{_plain(file).relative_to(models_dir)}",
            file.resolve(),
            f"model {candidate.id}",
            sums[index] if index < len(sums) else None,
        )
        for index, file in enumerate(candidate.files)
    ]
