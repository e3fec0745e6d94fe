"""Writes recital models with the gguf package, also in several files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from llamakit.smoke.recital import BOS, EOS, UNKNOWN, Logits, Vocabulary


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
    output[:, : len(vocabulary)] = np.array(logits) / np.sqrt(width)
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
