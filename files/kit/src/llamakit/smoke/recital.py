"""Writes tiny GGUF models that say what a table of next tokens tells them to.

The embedding of token ``i`` is the unit vector ``e_i`` and attention and feed-forward weights are
zero, so the state before the output layer is ``sqrt(width) * e_i`` (RMS norm) for the current token
``i``. The output matrix is therefore a table of logits: row = candidate, column = current token.
llama.cpp loads and samples such a model like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
SPACE = "\u2581"  # how SentencePiece writes a space inside a piece
MAX_PIECE_BYTES = 32  # llama-cpp-python drops longer pieces (its issue 2362)

Logits = npt.NDArray[np.float32]


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
        vocabulary.add(UNKNOWN, gguf.TokenType.UNKNOWN)
        vocabulary.add(BOS, gguf.TokenType.CONTROL)
        vocabulary.add(EOS, gguf.TokenType.CONTROL)
        for value in range(256):
            vocabulary.add(byte_token(value), gguf.TokenType.BYTE)
        vocabulary.add(SPACE, gguf.TokenType.NORMAL, score=-1.0)
        for code in range(33, 127):
            vocabulary.add(chr(code), gguf.TokenType.NORMAL, score=-float(code))
        return vocabulary

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str, kind: int, score: float = 0.0) -> int:
        """Appends a token unless one of that text is there; returns its id."""
        if text not in self.ids:
            self.ids[text] = len(self.texts)
            self.texts.append(text)
            self.types.append(int(kind))
            self.scores.append(score)
        return self.ids[text]

    def add_control(self, names: Iterable[str]) -> None:
        """Adds special tokens, which never show in the output."""
        for name in names:
            self.add(name, gguf.TokenType.CONTROL)

    def add_piece(self, text: str) -> int:
        """Adds a piece of output text; prompts are never cut into these (no merges lead there)."""
        return self.add(text.replace(" ", SPACE), gguf.TokenType.NORMAL, score=-500.0)


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
    logits = np.zeros((size, size), np.float32)
    end = vocabulary.ids[EOS]
    for current in range(size):
        logits[table.get(current, end), current] = gain
    return logits


def write_recital(
    path: Path,
    *,
    name: str,
    vocabulary: Vocabulary,
    logits: Logits,
    chat_template: str,
    context_length: int,
    description: str = "",
    split_max_tensors: int = 0,
) -> None:
    """Writes the model (F16, 2 MB for a width of 512).

    Args:
        path: the file; with ``split_max_tensors`` the stem's ``-0000N-of-0000M`` siblings.
        logits: shape (vocabulary, vocabulary), candidate by current token.
    """
    width = max(256, -(-len(vocabulary) // 256) * 256)
    heads, feed_forward = 8, 32
    head_width = width // heads
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    writer.add_name(name)
    if description:
        writer.add_description(description)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_width)
    writer.add_vocab_size(len(vocabulary))
    write_vocabulary(writer, vocabulary, chat_template)

    embedding = np.zeros((len(vocabulary), width), np.float16)
    embedding[np.arange(len(vocabulary)), np.arange(len(vocabulary))] = 1.0
    output = np.zeros((len(vocabulary), width), np.float16)
    output[:, : len(vocabulary)] = logits / np.sqrt(width)
    writer.add_tensor("token_embd.weight", embedding)
    for tensor, shape in {
        "attn_q": (width, width),
        "attn_k": (head_width, width),
        "attn_v": (head_width, width),
        "attn_output": (width, width),
        "ffn_gate": (feed_forward, width),
        "ffn_up": (feed_forward, width),
        "ffn_down": (width, feed_forward),
    }.items():
        writer.add_tensor(f"blk.0.{tensor}.weight", np.zeros(shape, np.float16))
    for tensor in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{tensor}.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    finish(writer)


def write_vocabulary(
    writer: gguf.GGUFWriter, vocabulary: Vocabulary, chat_template: str | None
) -> None:
    """Writes a SentencePiece tokenizer with byte fallback, and the chat template."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text.encode() for text in vocabulary.texts])
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_unk_token_id(vocabulary.ids[UNKNOWN])
    writer.add_bos_token_id(vocabulary.ids[BOS])
    writer.add_eos_token_id(vocabulary.ids[EOS])
    writer.add_add_bos_token(True)
    # The end token closes a raw /v1/completions prompt, so that every prompt ends in a known
    # token from which the recital can start; chat prompts end in one by their template.
    writer.add_add_eos_token(True)
    writer.add_add_space_prefix(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes everything and closes the file or files."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
