"""Prints the models for people (80 columns) or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TextIO

from llamakit.models.plan import Candidate
from llamakit.quantities import size


def print_models(
    candidates: Sequence[Candidate],
    *,
    as_json: bool,
    selected: str | None = None,
    file: TextIO | None = None,
) -> None:
    """One line a model: number, id, kind, size and state; a second line for what is wrong.

    The number of the model whose id is ``selected`` has a star.
    """
    file = file or sys.stdout
    if as_json:
        rows = [
            {
                "number": number,
                "id": model.id,
                "aliases": list(model.aliases),
                "kind": model.kind,
                "selected": model.id == selected,
                "listed": model.source is not None,
                "state": model.state.state,
                "state_detail": model.state.detail,
                "size": disk_size(model),
                "files": [str(path) for path in model.files],
            }
            for number, model in enumerate(candidates, 1)
        ]
        json.dump(rows, file, indent=2)
        print(file=file)
        return
    width = max([len(model.id) for model in candidates] + [5])
    print(f" No  {'MODEL':{width}}  KIND       FILES     SIZE  STATE", file=file)
    for number, model in enumerate(candidates, 1):
        count = disk_size(model)
        shown = size(count) if count else "-"
        star = "*" if model.id == selected else " "
        print(
            f"{number:3}{star} {model.id:{width}}  {model.kind:9}  {len(model.files):5}  {shown:>7}"
            f"  {model.state.state}",
            file=file,
        )
        if model.state.state in ("invalid", "partial"):
            print(f"     {model.state.detail}", file=file)


def disk_size(model: Candidate) -> int:
    """Bytes of the model's files that are there, or that they will have where that is known."""
    present = sum(path.stat().st_size for path in model.files if path.is_file())
    expected = sum(size or 0 for size in model.source.sizes) if model.source else 0
    return present or expected
