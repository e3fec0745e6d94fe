"""A models.yaml that lists one model of a hub, and the folder that it is fetched into."""

from __future__ import annotations

from pathlib import Path

import yaml

from llamakit.cli import main

REPOSITORY = "maker/script-GGUF"


class Place:
    """A folder with a models.yaml and a models folder.

    Attributes:
        target: where the model belongs.
        part: what of it is there until it is whole.
    """

    def __init__(self, folder: Path) -> None:
        self.config, self.models = folder / "models.yaml", folder / "models"
        self.target = self.models / "script.gguf"
        self.part = self.models / "script.gguf.part"

    def write(self, **source: object) -> None:
        """The model with this source beside the usual fields; None leaves one of them out."""
        given = {"hf": REPOSITORY, "file": "script.gguf", **source}
        given = {key: value for key, value in given.items() if value is not None}
        self.config.write_text(yaml.safe_dump({"models": [{"id": "script", "source": given}]}))

    def arguments(self) -> list[str]:
        """What every command is told of the place."""
        return ["--models", str(self.config), "--models-dir", str(self.models)]

    def fetch(self, *more: str) -> int:
        """The exit code of ``llamakit fetch``, run in this process."""
        return main(["fetch", *self.arguments(), "--progress", "none", *more])
