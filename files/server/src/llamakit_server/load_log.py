"""What llama.cpp says while it loads a model: above all, where it put the layers.

Runs inside the model server's environment; parsing needs nothing but Python's own library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
BUFFER = re.compile(r"(\S+) (model|KV) buffer size\s*=\s*([\d.]+) MiB")
# CUDA_Host is the computer's own memory; CUDA_Split is that of several cards.
DEVICE = re.compile(r"(?:CUDA|ROCm|Vulkan|SYCL|MUSA)(?:\d+|_Split)")
# Why there is no device although the build knows some: the driver refused, or found no card.
REFUSED = re.compile(r"(failed to initialize CUDA|no (?:CUDA|ROCm|Vulkan)\S* devices? found).*")
ERROR_LEVEL = 4
MAX_ERRORS = 5


class LoadLog:
    """Keeps what matters of llama.cpp's messages, and gives each on."""

    def __init__(self) -> None:
        self.layers: tuple[int, int] | None = None  # on a GPU, and in all
        self.buffers: dict[str, float] = {}  # MiB of weights and cache by device
        self.refusal: str | None = None
        self.errors: list[str] = []

    def read(self, level: int, text: str) -> None:
        """Takes one message of llama.cpp, of ggml's log level ``level``."""
        if match := OFFLOADED.search(text):
            self.layers = int(match[1]), int(match[2])
        elif match := BUFFER.search(text):
            if DEVICE.fullmatch(match[1]):
                self.buffers[match[1]] = self.buffers.get(match[1], 0.0) + float(match[3])
        elif match := REFUSED.search(text):
            self.refusal = match[0].strip()
        elif level == ERROR_LEVEL and len(self.errors) < MAX_ERRORS and text.strip():
            self.errors.append(text.strip())

    def proof(self, wanted: int, *, supported: bool) -> dict[str, Any]:
        """What ``llamakit gpu-proof`` judges; ``wanted`` is n_gpu_layers, -1 for all."""
        offloaded, layers = self.layers or (0, None)
        return {
            "pid": os.getpid(),
            "wanted": wanted,
            "supported": supported,
            "offloaded": offloaded,
            "layers": layers,
            "devices": {name: round(size, 2) for name, size in self.buffers.items()},
            "refusal": self.refusal,
        }


@contextlib.contextmanager
def listening() -> Iterator[LoadLog]:
    """Reads llama.cpp's messages, whatever ``verbose`` is, until the end of the block."""
    import llama_cpp
    from llama_cpp import _logger

    log = LoadLog()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def hear(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        log.read(level, text.decode(errors="replace"))
        _logger.llama_log_callback(level, text, data)

    llama_cpp.llama_log_set(hear, ctypes.c_void_p(0))
    try:
        yield log
    finally:
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p(0))


def proof_file(run_dir: Path, name: str) -> Path:
    """Where the server of the model ``name`` says what is on the GPU."""
    return run_dir / f"gpu-{name}.json"


def write_proof(file: Path, proof: dict[str, Any]) -> None:
    """Replaces the file.

    Raises:
        OSError: it can't be written.
    """
    part = file.with_suffix(".part")
    part.write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
    part.replace(file)
