"""What the modules that add commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

Commands = argparse._SubParsersAction


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where models.yaml and the models' files are."""
    parser.add_argument("--models", type=Path, default=Path("config/models.yaml"))
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
