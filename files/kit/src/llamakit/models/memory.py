"""Estimates the memory a model server needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamakit.models.gguf_header import Header

PROCESS_BYTES = 150_000_000  # Python, the server and llama.cpp's scratch buffers
BATCH_TOKENS = 512


def estimate_memory(files_bytes: int, header: Header | None, settings: Mapping[str, Any]) -> int:
    """Bytes for weights, key/value cache, logits and process; the cache is taken as F16."""
    if header is None:
        return files_bytes + PROCESS_BYTES
    context = int(settings.get("n_ctx") or header.context_length or 0)
    head_size = header.head_size or 0
    heads = header.per_layer("attention.head_count_kv") or header.per_layer("attention.head_count")
    value_size = header.of_architecture("attention.value_length") or head_size
    cache = context * sum(heads) * (head_size + value_size) * 2
    rows = context if settings.get("logits_all") else min(context, BATCH_TOKENS)
    return files_bytes + cache + rows * header.vocabulary * 4 + PROCESS_BYTES
