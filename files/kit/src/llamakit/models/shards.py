"""Names of the files of a model that comes in several: ``x-00001-of-00003.gguf``."""

from __future__ import annotations

import re
from dataclasses import dataclass

PATTERN = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5})(?P<of>-of-)(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ShardName:
    """One file of several; ``number`` counts from 1."""

    stem: str
    number: int
    count: int
    of: str = "-of-"
    suffix: str = ".gguf"
    """As they are spelt: case counts in a file's name."""

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """The parts of a shard's file name, or None when it is not one."""
        match = PATTERN.fullmatch(name)
        if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
            return None
        number, count = int(match["number"]), int(match["count"])
        return cls(match["stem"], number, count, match["of"], match["suffix"])

    def all_names(self) -> list[str]:
        """The names of all files of the model, in order."""
        return [
            f"{self.stem}-{number:05d}{self.of}{self.count:05d}{self.suffix}"
            for number in range(1, self.count + 1)
        ]


def file_names(name: str) -> list[str]:
    """All file names of the model that ``name`` is (the first) one of."""
    shard = ShardName.parse(name)
    return shard.all_names() if shard else [name]


def stem_of(name: str) -> str:
    """The model's name without ``.gguf`` and the shard's number."""
    shard = ShardName.parse(name)
    return shard.stem if shard else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
