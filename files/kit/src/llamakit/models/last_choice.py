"""Which mode and model ran last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def last_choice(state_dir: Path) -> dict[str, Any]:
    """The mode and the model that ran last: ``{"mode": …, "model": …}``, empty before the first."""
    try:
        return dict(json.loads((state_dir / "mode.json").read_text()))
    except FileNotFoundError:
        return {}
