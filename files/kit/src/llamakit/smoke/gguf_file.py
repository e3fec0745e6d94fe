"""Writes GGUF files, of which a small model needs little.

The layout is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

VERSION, ALIGNMENT = 3, 32
F32, F16 = 0, 1  # types of tensors
FORMATS = {F32: "f", F16: "e"}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of values

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Numbers in rows; ``shape`` is (rows, columns), or (columns,) for a vector."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: bytes


def zeros(name: str, rows: int, columns: int) -> Tensor:
    """A matrix of zeros in half precision."""
    return Tensor(name, (rows, columns), F16, bytes(2 * rows * columns))


def matrix(name: str, rows: Sequence[Sequence[float]]) -> Tensor:
    """A matrix in half precision."""
    shape = len(rows), len(rows[0])
    data = struct.pack(f"<{shape[0] * shape[1]}e", *chain.from_iterable(rows))
    return Tensor(name, shape, F16, data)


def vector(name: str, values: Sequence[float]) -> Tensor:
    """A vector in single precision."""
    return Tensor(name, (len(values),), F32, struct.pack(f"<{len(values)}f", *values))


def gguf(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    """The content of the file. Numbers are written as 32 bits wide."""
    parts = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _typed(value)]
    offset = 0
    for tensor in tensors:
        dimensions = tensor.shape[::-1]  # the one that runs fastest comes first
        parts += [
            _text(tensor.name),
            struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions),
            struct.pack("<IQ", tensor.type, offset),
        ]
        offset += _aligned(len(tensor.data))
    header = b"".join(parts)
    data = b"".join(_padded(tensor.data) for tensor in tensors)
    return _padded(header) + data


def _typed(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value[0], str):
        content = b"".join(_text(str(item)) for item in value)
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + content
    kind, format_ = (FLOAT32, "f") if isinstance(value[0], float) else (INT32, "i")
    return struct.pack(f"<IIQ{len(value)}{format_}", ARRAY, kind, len(value), *value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")
