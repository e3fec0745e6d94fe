"""What the built-in smoke model is called and where it lies, for those who don't make it.

Making it takes longer than most commands run.
"""

from __future__ import annotations

import hashlib
import io
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from llamakit.models.gguf_header import parse_header
from llamakit.models.library import FileState, inspect

PACKAGE: Traversable = resources.files("llamakit.smoke")
SMOKE_ID = "llamakit-smoke"
CONTEXT_LENGTH = 8192  # tokens; a prompt has one token a byte


def smoke_file() -> str:
    """The model's file name, which changes with what the model is made from: this package.

    So a later release makes its own file, and the changed path restarts the server. The older file
    stays, for the server that runs from it until then.
    """
    digest = hashlib.sha256()
    for source in sorted(PACKAGE.iterdir(), key=lambda file: file.name):
        if source.name.endswith(".py"):
            digest.update(source.read_bytes())
    return f"{SMOKE_ID}-{digest.hexdigest()[:12]}.gguf"


def stand_in(folder: Path, *, make: bool) -> tuple[Path, FileState]:
    """This release's smoke model in ``folder``, made unless it is there and whole.

    Without ``make`` nothing is written, and the state is what it will be once it is made.
    """
    path = folder / smoke_file()
    if (state := inspect([path])).state != "present":
        from llamakit.smoke.model import smoke_model, write_smoke_model

        if not make:
            content = smoke_model()
            return path, FileState("present", "", parse_header(io.BytesIO(content), len(content)))
        write_smoke_model(path)
        state = inspect([path])
    return path, state
