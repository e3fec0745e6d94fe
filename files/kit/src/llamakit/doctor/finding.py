"""What a check of the doctor gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamakit.config.local_env import LOCAL_ENV

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; the remedy is empty when all is well."""

    level: Level
    subject: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Where:
    """The places that the checks look at."""

    models: Path
    routes: Path
    models_dir: Path
    state_dir: Path
    secrets_dir: Path = Path("data/secrets")
    settings: Path = LOCAL_ENV


Check = Callable[[Where], Iterator[Finding]]
