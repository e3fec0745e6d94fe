"""What the built-in smoke model is called, for those who don't make it.

Making it needs numpy and gguf, which take longer to import than most commands take to run.
"""

from __future__ import annotations

from pathlib import Path

SMOKE_ID = "llamakit-smoke"
SMOKE_FILE = "llamakit-smoke.gguf"
CONTEXT_LENGTH = 8192  # tokens; a prompt has one token a byte


def ensure_smoke_model(path: Path) -> None:
    """Makes the smoke model unless it is there."""
    if not path.exists():
        from llamakit.smoke.model import write_smoke_model

        write_smoke_model(path)
