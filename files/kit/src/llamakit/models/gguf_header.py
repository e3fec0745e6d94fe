"""Reads the header of a GGUF file: what the model is, and how many bytes the file must have.

Only the header is read (up to some megabytes), whatever the file's size. The layout is
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_PAIRS, MAX_TENSORS, MAX_DIMENSIONS = 100_000, 1_000_000, 4
MAX_KEPT = 1024  # numbers of an array: more layers than any model has
CHUNK = 1 << 20

# Value types: number -> struct format; 8 is text and 9 an array.
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
TEXT, ARRAY = 8, 9

# Tensor types of ggml: number -> (elements, bytes) of one block.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip


class GgufError(ValueError):
    """The file is not a GGUF that can be loaded; the message says why."""


@dataclass(frozen=True, slots=True)
class ArrayLength:
    """Stands for a long array or one of texts, of which only the number of elements is kept."""

    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself.

    ``metadata`` has scalars, texts and short arrays of numbers (as tuples) by key, and
    ``ArrayLength`` for other arrays.
    ``required_size`` is where the last tensor ends, in bytes: a shorter file is truncated.
    """

    metadata: dict[str, Any]
    tensors: int
    required_size: int

    def of_architecture(self, key: str) -> int | None:
        """A number stored under the architecture's prefix, for example ``context_length``."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        return int(value) if isinstance(value, int | float) else None

    def per_layer(self, key: str) -> tuple[int, ...]:
        """A number of every layer, stored once for all or one by one; empty when it is not told."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        if isinstance(value, tuple):
            return tuple(int(number) for number in value)
        number = self.of_architecture(key)
        return () if number is None else (number,) * (self.of_architecture("block_count") or 0)

    @property
    def is_model(self) -> bool:
        """False for what only goes with a model: a projector, an adapter, an importance matrix."""
        projector = self.metadata.get("general.architecture") == "clip"
        return self.metadata.get("general.type", "model") == "model" and not projector

    @property
    def context_length(self) -> int | None:
        """Tokens the model was made for."""
        return self.of_architecture("context_length")

    @property
    def head_size(self) -> int | None:
        """Width of one attention head."""
        width = self.of_architecture("embedding_length")
        heads = max(self.per_layer("attention.head_count"), default=0)
        given = self.of_architecture("attention.key_length")
        return given or (width // heads if width and heads else None)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, 0 when it is not told."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, ArrayLength) else 0

    @property
    def is_embedding(self) -> bool:
        """True when the model pools its states: it makes vectors, not text."""
        return bool(self.of_architecture("pooling_type"))

    @property
    def split(self) -> tuple[int, int]:
        """The shard's number from 0, and the number of shards (0, 1 when it is whole)."""
        count = self.metadata.get("split.count", 0)
        return int(self.metadata.get("split.no", 0)), max(int(count), 1)


def read_header(path: Path) -> Header:
    """Reads and checks the header.

    Raises:
        GgufError: not a GGUF, damaged, or of a version that llama.cpp doesn't load.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return parse_header(file, path.stat().st_size)


def parse_header(file: BinaryIO, size: int) -> Header:
    """The header of an open file of ``size`` bytes; raises as ``read_header`` does."""
    reader = _Reader(file, size)
    magic = reader.take(4)
    if magic != MAGIC:
        raise GgufError(f"it starts with {magic!r} instead of {MAGIC!r}: not a GGUF model")
    version = reader.number("I")
    if version not in VERSIONS:
        raise GgufError(f"GGUF version {version & 0xFFFFFFFF:#x}; llama.cpp loads 2 and 3")
    tensors, pairs = reader.number("Q"), reader.number("Q")
    if tensors > MAX_TENSORS or pairs > MAX_PAIRS:
        raise GgufError(f"it claims {tensors} tensors and {pairs} settings: damaged")
    metadata = {}
    for _ in range(pairs):
        key = reader.text()
        metadata[key] = reader.value(reader.number("I"))
    data_size = max((_tensor_end(reader) for _ in range(tensors)), default=0)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise GgufError(f"an alignment of {alignment!r}: damaged")
    data_start = -(-reader.position // alignment) * alignment
    return Header(metadata, tensors, data_start + data_size if tensors else reader.position)


def _tensor_end(reader: _Reader) -> int:
    """Reads one tensor's description; where it ends in the data part (bytes)."""
    name = reader.text()
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise GgufError(f"the tensor {name[:40]!r} has {dimensions} dimensions: damaged")
    elements: int = 1
    for _ in range(dimensions):
        elements *= reader.number("Q")
    kind, offset = int(reader.number("I")), int(reader.number("Q"))
    # Of a type made after this table the length is unknown, and only its start is checked.
    block_elements, block_bytes = BLOCKS.get(kind, (1, 0))
    return offset + elements // block_elements * block_bytes


class _Reader:
    """Reads little-endian values through a buffer and never beyond the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._buffer, self._at = b"", 0
        self.position = 0

    def take(self, length: int) -> bytes:
        if length > self._size - self.position:
            raise GgufError(f"it ends within its header (after {self._size} bytes): truncated")
        while len(self._buffer) - self._at < length:
            more = self._file.read(max(CHUNK, length))
            if not more:
                raise GgufError("it ends within its header: truncated")
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        start = self._at
        self._at += length
        self.position += length
        return self._buffer[start : self._at]

    def number(self, format_: str) -> Any:
        return struct.unpack("<" + format_, self.take(struct.calcsize("<" + format_)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            return self._array()
        raise GgufError(f"a setting of the unknown type {kind}: damaged")

    def _array(self) -> ArrayLength | tuple[int | float, ...]:
        kind, length = self.number("I"), int(self.number("Q"))
        if kind in SCALARS and length <= MAX_KEPT:
            return tuple(self.number(SCALARS[kind]) for _ in range(length))
        if kind in SCALARS:
            self.take(struct.calcsize("<" + SCALARS[kind]) * length)
        elif kind == TEXT:
            for _ in range(length):
                self.take(self.number("Q"))
        else:
            raise GgufError(f"a list of the type {kind}: damaged")
        return ArrayLength(length)
