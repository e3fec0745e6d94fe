"""``models`` for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamakit.cli import main
from llamakit.quantities import size
from support.models import script_model


def test_the_size_of_a_small_model_is_no_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        "  - {id: small, source: {path: small.gguf}}\n"
        "  - {id: large, source: {hf: a/b, file: c.gguf, size: 13400000000}}\n"
    )
    file = script_model(tmp_path, "small.gguf")
    main(["models", "--models", str(tmp_path / "models.yaml"), "--models-dir", str(tmp_path)])
    _, small, large = capsys.readouterr().out.splitlines()
    assert f"  {size(file.stat().st_size)}  present" in small
    assert "13.4 GB  missing" in large
