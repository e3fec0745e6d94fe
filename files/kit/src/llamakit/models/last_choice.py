"""What ran last: the mode, the selected model, and the ports that models were given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamakit.smoke.stand_in import SMOKE_ID

CHOICE_IS_GONE = (
    "The model {gone} was selected last and is gone; {id} is selected instead. "
    "Another is chosen with: ./console.sh use ID"
)


def last_choice(state_dir: Path) -> dict[str, Any]:
    """What the last plan asked to remember, empty before the first:
    ``{"mode": …, "model": …, "port_base": …, "ports": {ID: …}}``, from earlier kits without ports.
    """
    try:
        return dict(json.loads((state_dir / "mode.json").read_text()))
    except FileNotFoundError:
        return {}


def last_ports(last: Mapping[str, Any], base: int) -> dict[str, int]:
    """The ports by model id, as long as they are counted from the same one."""
    return dict(last.get("ports", {})) if last.get("port_base") == base else {}


def gone_choice(last: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
    """What to tell people when a plan that asks for no model has lost the one that ran last."""
    gone = last.get("model")
    if plan["mode"] != "single" or gone in (None, SMOKE_ID) or plan["selected"] in (gone, SMOKE_ID):
        return None
    return CHOICE_IS_GONE.format(gone=gone, id=plan["selected"])
