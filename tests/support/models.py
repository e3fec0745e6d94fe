"""Makes the GGUF models of the tests: all are really loaded by llama.cpp, none is downloaded.

Every function takes a folder, makes its file there unless it is there already, and returns the path
of what llama.cpp loads (of a sharded model the first shard).

The scripted model recites a text chosen by a word in the last user message, at any temperature:
``LOOP`` (for ever), ``JSON``, ``UTF8``, ``BAD8`` (bytes that are not UTF-8), ``EMPTY`` (ends at
once), ``LONG`` (one piece of 42 bytes), else ``The quick brown fox …``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from llamakit.smoke.recital import (
    EOS,
    SPACE,
    Vocabulary,
    byte_token,
    chain,
    next_token_logits,
)
from support.recital import finish, write_recital, write_vocabulary

Quantization = gguf.GGMLQuantizationType
Array = npt.NDArray[np.float32]

SAY = "The quick brown fox jumps over one lazy dog."
SAY_TOKENS = 10
SCRIPTS: dict[str, list[str]] = {
    "<|say|>": ["The", " quick", " brown", " fox", " jumps", " over", " one", " lazy", " dog", "."],
    "<|json|>": ['{"', "name", '":', ' "', "Ada", '",', ' "age', '": ', "36", "}"],
    "<|utf8|>": [
        "Gr",
        "\u00fc\u00dfe ",
        *(byte_token(value) for value in "\U0001f600\u20ac".encode()),
        " end",
    ],
    "<|bad8|>": ["ok ", *(byte_token(value) for value in b"\xc3(\xff"), " done"],
    "<|empty|>": [],
    "<|long|>": ["A" + "x" * 40 + "Z", " tail"],
}
LOOP = [" tick", " tock", " ding", " dong"]
SCRIPT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] }}{% elif m['content'] %}"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% if tools %}<|tools|>{{ tools | tojson }}{% endif %}"
    "{% set last = messages[-1]['content'] if messages else '' %}"
    "{% set c = last if last is string else '' %}"
    "{% if 'FAIL' in c %}{{ raise_exception('the template refuses') }}{% endif %}"
    "{% if 'LOOP' in c %}<|loop|>{% elif 'JSON' in c %}<|json|>{% elif 'UTF8' in c %}<|utf8|>"
    "{% elif 'BAD8' in c %}<|bad8|>{% elif 'EMPTY' in c %}<|empty|>{% elif 'LONG' in c %}<|long|>"
    "{% else %}<|say|>{% endif %}"
)
CALLS = {
    "hermes": [
        "<tool_call>",
        '\n{"name": "look_up", "arguments": {"word": "owl"}}\n</tool_call>',
    ],
    "hermes-two": [
        'Let me see.\n<tool_call>{"name": "look_up", "arguments": {"word": "</tool_call>"}}'
        '</tool_call>\n<tool_call>{"name": "count", "arguments": {}}</tool_call>',
    ],
    "hermes-broken": ['<tool_call>{"name": "look_up", "arguments": }</tool_call> Sorry.'],
    "llama": ['{"name": "look_up", "parameters": {"word": "owl"}}'],
    "llama-two": [
        '{"name": "look_up", "parameters": {"word": "elk"}}; {"name": "count", "parameters": {}}'
    ],
    "llama-broken": ['{"name": "Ada", "age": 36} is JSON and no call.'],
    "mistral": ["[TOOL_CALLS]", ' [{"name": "look_up", "arguments": {"word": "owl"}}]'],
    "mistral-two": ['[TOOL_CALLS]look_up[ARGS]{"word": "ant"}[TOOL_CALLS]count[ARGS]{}'],
    "mistral-broken": ["[TOOL_CALLS]nothing [1, 2]"],
    "told": ["An owl is a bird."],
}
"""What the model with tools recites: for a word in the last message, or after a tool's result."""
TOOLS_TEMPLATE = (
    "{{ bos_token }}{% set first = messages[0]['content'] %}"
    "{% if tools %}<|tools|>Call with <tool_call>: {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['tool_calls'] %}"
    "{% if 'llama' in first and m['tool_calls'] | length > 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}"
    "{% for call in m['tool_calls'] %}"
    "{% if call['function']['arguments'] is string %}"
    "{{ raise_exception('the arguments are text') }}{% endif %}"
    "{% if 'mistral' in first and call['id'] | length != 9 %}"
    "{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "{{ call['function'] | tojson }}{% endfor %}{% endif %}{% endfor %}"
    "{% set last = messages[-1] %}"
    "{% if last['role'] == 'tool' %}<|told|>"
    "{% elif last['content'] in ['" + "', '".join(CALLS) + "'] %}<|{{ last['content'] }}|>"
    "{% else %}<|say|>{% endif %}"
)
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def script_model(folder: Path, name: str = "script.gguf") -> Path:
    """The scripted model (2 MB, context 8192)."""
    return _once(folder / name, _write_script)


def tools_model(folder: Path, name: str = "tools.gguf") -> Path:
    """A model with a chat template for tools, which recites calls in several dialects."""
    return _once(folder / name, _write_tools)


def sharded_model(folder: Path, stem: str = "shard") -> Path:
    """The scripted model in three files ``STEM-0000N-of-00003.gguf``."""
    first = folder / f"{stem}-00001-of-00003.gguf"
    if not first.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_script(folder / f"{stem}.gguf", split_max_tensors=5)
    return first


def random_model(folder: Path, name: str = "random.gguf", seed: int = 1) -> Path:
    """Random weights (0.5 MB, context 2048) that never end by themselves."""
    return _once(folder / name, lambda path: _write_random(path, seed=seed))


def slow_model(folder: Path, name: str = "slow.gguf") -> Path:
    """134 million random parameters in Q8_0 (143 MB): about 50 tokens a second on one core."""
    return _once(
        folder / name,
        lambda path: _write_random(
            path,
            width=768,
            layers=12,
            feed_forward=2048,
            heads=(12, 12),
            more_tokens=32000 - 356,
            context_length=4096,
            quantization=Quantization.Q8_0,
        ),
    )


def embedding_model(folder: Path, name: str = "embed.gguf") -> Path:
    """Random weights with mean pooling: 64 numbers a text."""
    return _once(folder / name, lambda path: _write_random(path, pooling=gguf.PoolingType.MEAN))


def header_alone(path: Path, **metadata: Any) -> None:
    """A GGUF file without tensors."""
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", "llama"))
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    finish(writer)


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".making")
        write(part)
        part.replace(path)
    return path


def _write_script(path: Path, split_max_tensors: int = 0) -> None:
    vocabulary = Vocabulary.basic()
    vocabulary.add_control([*SCRIPTS, "<|loop|>"])
    vocabulary.add_control(
        f"<|{role}|>" for role in ("system", "user", "assistant", "tool", "tools")
    )
    table: dict[int, int] = {}
    for start, pieces in SCRIPTS.items():
        table |= chain(vocabulary, start, pieces)
    table |= chain(vocabulary, EOS, SCRIPTS["<|say|>"])
    first, *rest = LOOP
    vocabulary.add_piece(first)
    table |= chain(vocabulary, "<|loop|>", [first])
    table |= chain(vocabulary, first.replace(" ", SPACE), rest, end=first.replace(" ", SPACE))
    write_recital(
        path,
        name="script",
        vocabulary=vocabulary,
        logits=next_token_logits(vocabulary, table, gain=40.0),
        chat_template=SCRIPT_TEMPLATE,
        context_length=8192,
        split_max_tensors=split_max_tensors,
    )


def _write_tools(path: Path) -> None:
    vocabulary = Vocabulary.basic()
    marks = [pieces[0] for pieces in CALLS.values() if len(pieces) > 1]
    vocabulary.add_control([*(f"<|{name}|>" for name in CALLS), "<|say|>", *marks])
    vocabulary.add_control(f"<|{role}|>" for role in ("system", "user", "assistant", "tool"))
    table = chain(vocabulary, "<|say|>", SCRIPTS["<|say|>"])
    for name, (*mark, text) in CALLS.items():
        table |= chain(vocabulary, f"<|{name}|>", [*mark, *_cut(text, vocabulary)])
    table |= chain(vocabulary, EOS, SCRIPTS["<|say|>"])
    write_recital(
        path,
        name="tools",
        vocabulary=vocabulary,
        logits=next_token_logits(vocabulary, table, gain=40.0),
        chat_template=TOOLS_TEMPLATE,
        context_length=8192,
    )


def _cut(text: str, vocabulary: Vocabulary) -> list[str]:
    """The text in pieces of a few characters, none of which the vocabulary has yet."""
    pieces: list[str] = []
    held = ""
    for character in text:
        held += character
        known = held in pieces or held.replace(" ", SPACE) in vocabulary.ids
        if len(held) >= 4 and not known:
            pieces.append(held)
            held = ""
    if held:
        pieces[-1] += held
    return pieces


def _write_random(
    path: Path,
    *,
    width: int = 64,
    layers: int = 2,
    feed_forward: int = 128,
    heads: tuple[int, int] = (4, 2),
    more_tokens: int = 0,
    context_length: int = 2048,
    quantization: Quantization = Quantization.F32,
    pooling: gguf.PoolingType | None = None,
    seed: int = 1,
) -> None:
    """Writes a llama architecture; ``heads`` counts query heads and key/value heads."""
    random = np.random.default_rng(seed)
    vocabulary = Vocabulary.basic()
    vocabulary.add_control(["<|im_start|>", "<|im_end|>"])
    for number in range(more_tokens):
        vocabulary.add_piece(f" w{number:05d}")
    key_width = width // heads[0] * heads[1]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads[0])
    writer.add_vocab_size(len(vocabulary))
    if pooling is not None:
        writer.add_pooling_type(pooling)
    write_vocabulary(writer, vocabulary, CHATML)

    def weights(rows: int, columns: int, scale: float) -> Array:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)

    def add(name: str, values: Array) -> None:
        if quantization is Quantization.F32:
            writer.add_tensor(name, values)
        else:
            quantized = gguf.quants.quantize(values, quantization)
            writer.add_tensor(name, quantized, raw_dtype=quantization)

    add("token_embd.weight", weights(len(vocabulary), width, 1.0))
    for layer in range(layers):
        prefix = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{prefix}.{norm}.weight", np.ones(width, np.float32))
        for name, (rows, columns) in {
            "attn_q": (width, width),
            "attn_k": (key_width, width),
            "attn_v": (key_width, width),
            "attn_output": (width, width),
            "ffn_gate": (feed_forward, width),
            "ffn_up": (feed_forward, width),
            "ffn_down": (width, feed_forward),
        }.items():
            add(f"{prefix}.{name}.weight", weights(rows, columns, 0.7 / columns**0.5))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    output = weights(len(vocabulary), width, 1.5 / width**0.5)
    # Special and byte tokens are never the likeliest: the text goes on and is valid UTF-8.
    output[:259] = 0
    output[[vocabulary.ids["<|im_start|>"], vocabulary.ids["<|im_end|>"]]] = 0
    add("output.weight", output)
    finish(writer)


if __name__ == "__main__":
    # python -m support.models FOLDER makes the small ones.
    script_model(Path(sys.argv[1]))
    embedding_model(Path(sys.argv[1]))
