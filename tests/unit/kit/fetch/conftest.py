"""Fixtures of the downloads' tests: a hub on this machine, and a place to fetch from it into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamakit.fetch import download
from support.fetching import REPOSITORY, Place
from support.hub import Hub, running_hub
from support.models import script_model


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that has the model, and the only one that is asked; retries don't wait."""
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.01)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files[f"{REPOSITORY}/script.gguf"] = script_model(tmp_path / "made").read_bytes()
        yield hub


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A models.yaml that lists the hub's model, and nothing fetched yet."""
    place = Place(tmp_path)
    place.write()
    return place
