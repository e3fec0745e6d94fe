"""Writes tiny GGUF models that say what a table of next tokens tells them to.

The embedding of token ``i`` is the unit vector ``e_i`` and attention and feed-forward weights are
zero, so the state before the output layer is ``sqrt(width) * e_i`` (RMS norm) for the current token
``i``. The output matrix is therefore a table of logits: row = candidate, column = current token.
llama.cpp loads and samples such a model like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llamakit.smoke.gguf_file import Value, gguf, matrix, vector, zeros

UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
SPACE = "\u2581"  # how SentencePiece writes a space inside a piece
MAX_PIECE_BYTES = 32  # llama-cpp-python drops longer pieces (its issue 2362)

# What llama.cpp calls the types of tokens.
NORMAL, UNKNOWN_TYPE, CONTROL, BYTE = 1, 2, 3, 6

Logits = list[list[float]]


def byte_token(value: int) -> str:
    """The name of the token that stands for one byte."""
    return f"<0x{value:02X}>"


@dataclass(slots=True)
class Vocabulary:
    """Tokens in order; the first three and the 256 bytes are always there."""

    texts: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)

    @classmethod
    def basic(cls) -> Vocabulary:
        """Unknown, begin, end, all bytes and the printable ASCII characters."""
        vocabulary = cls()
        vocabulary.add(UNKNOWN, UNKNOWN_TYPE)
        vocabulary.add(BOS, CONTROL)
        vocabulary.add(EOS, CONTROL)
        for value in range(256):
            vocabulary.add(byte_token(value), BYTE)
        vocabulary.add(SPACE, NORMAL, score=-1.0)
        for code in range(33, 127):
            vocabulary.add(chr(code), NORMAL, score=-float(code))
        return vocabulary

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str, kind: int, score: float = 0.0) -> int:
        """Appends a token unless one of that text is there; returns its id."""
        if text not in self.ids:
            self.ids[text] = len(self.texts)
            self.texts.append(text)
            self.types.append(kind)
            self.scores.append(score)
        return self.ids[text]

    def add_control(self, names: Iterable[str]) -> None:
        """Adds special tokens, which never show in the output."""
        for name in names:
            self.add(name, CONTROL)

    def add_piece(self, text: str) -> int:
        """Adds a piece of output text; prompts are never cut into these (no merges lead there)."""
        return self.add(text.replace(" ", SPACE), NORMAL, score=-500.0)


def chain(
    vocabulary: Vocabulary, start: str, pieces: Sequence[str], end: str = EOS
) -> dict[int, int]:
    """Next-token table that leads from ``start`` over ``pieces`` to ``end`` (``{id: next id}``).

    Raises:
        ValueError: a piece occurs twice, so that its successor would be ambiguous.
    """
    table: dict[int, int] = {}
    current = vocabulary.ids[start]
    for text in [*pieces, end]:
        token = vocabulary.ids.get(text.replace(" ", SPACE))
        if token is None:
            token = vocabulary.add_piece(text)
        if table.setdefault(current, token) != token:
            raise ValueError(f"the piece {vocabulary.texts[current]!r} is used twice")
        current = token
    return table


def next_token_logits(vocabulary: Vocabulary, table: Mapping[int, int], gain: float) -> Logits:
    """Logits (candidate, current): ``gain`` for the successor, 0 elsewhere; EOS where none is."""
    size = len(vocabulary)
    logits = [[0.0] * size for _ in range(size)]
    end = vocabulary.ids[EOS]
    for current in range(size):
        logits[table.get(current, end)][current] = gain
    return logits


def recital(
    *,
    name: str,
    description: str,
    vocabulary: Vocabulary,
    logits: Logits,
    chat_template: str,
    context_length: int,
) -> bytes:
    """The content of the model's file (F16, 2 MB for a width of 512).

    Args:
        logits: shape (vocabulary, vocabulary), candidate by current token.
    """
    size = len(vocabulary)
    width = max(256, -(-size // 256) * 256)
    heads, feed_forward = 8, 32
    head_width = width // heads
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": name,
        "general.description": description,
        "llama.context_length": context_length,
        "llama.embedding_length": width,
        "llama.block_count": 1,
        "llama.feed_forward_length": feed_forward,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": head_width,
        "llama.vocab_size": size,
        **tokenizer(vocabulary, chat_template),
    }
    rest = [0.0] * (width - size)
    embedding = [[float(column == row) for column in range(width)] for row in range(size)]
    output = [[logit / math.sqrt(width) for logit in row] + rest for row in logits]
    tensors = [
        matrix("token_embd.weight", embedding),
        zeros("blk.0.attn_q.weight", width, width),
        zeros("blk.0.attn_k.weight", head_width, width),
        zeros("blk.0.attn_v.weight", head_width, width),
        zeros("blk.0.attn_output.weight", width, width),
        zeros("blk.0.ffn_gate.weight", feed_forward, width),
        zeros("blk.0.ffn_up.weight", feed_forward, width),
        zeros("blk.0.ffn_down.weight", width, feed_forward),
        vector("blk.0.attn_norm.weight", [1.0] * width),
        vector("blk.0.ffn_norm.weight", [1.0] * width),
        vector("output_norm.weight", [1.0] * width),
        matrix("output.weight", output),
    ]
    return gguf(metadata, tensors)


def tokenizer(vocabulary: Vocabulary, chat_template: str) -> dict[str, Value]:
    """A SentencePiece tokenizer with byte fallback, and the chat template."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": vocabulary.texts,
        "tokenizer.ggml.scores": vocabulary.scores,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.unknown_token_id": vocabulary.ids[UNKNOWN],
        "tokenizer.ggml.bos_token_id": vocabulary.ids[BOS],
        "tokenizer.ggml.eos_token_id": vocabulary.ids[EOS],
        "tokenizer.ggml.add_bos_token": True,
        # The end token closes a raw /v1/completions prompt, so that every prompt ends in a known
        # token from which the recital can start; chat prompts end in one by their template.
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": chat_template,
    }
