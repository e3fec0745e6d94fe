"""The memory that a model server is taken to need, by the header of its model."""

from __future__ import annotations

from pathlib import Path

from llamakit.models.gguf_header import read_header
from llamakit.models.memory import PROCESS_BYTES, estimate_memory
from support.models import header_alone


def test_each_layer_has_as_many_heads_as_it_says(tmp_path: Path) -> None:
    """Of hybrids most layers have none, and keep nothing of the context."""
    sizes = {}
    for name, heads in (("all", 8), ("hybrid", [0, 8, 0, 0]), ("told", [8, 8, 8, 8])):
        path = tmp_path / f"{name}.gguf"
        header_alone(
            path,
            **{
                "llama.block_count": 4, "llama.embedding_length": 512,
                "llama.attention.head_count": 16, "llama.attention.head_count_kv": heads,
            },
        )  # fmt: skip
        sizes[name] = estimate_memory(0, read_header(path), {"n_ctx": 32768}) - PROCESS_BYTES
    assert sizes["all"] == sizes["told"] == 4 * sizes["hybrid"] == 32768 * 4 * 8 * 32 * 2 * 2
