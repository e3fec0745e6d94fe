"""The built-in smoke model: a real GGUF of 2 MB that recites a fixed text.

It stands in when no model could be fetched, so that keys, limits and clients can be tried. Under a
grammar (JSON mode, a schema, a forced tool) it closes what is open as soon as it may, so that the
shortest valid JSON results. It knows nothing and says so.
"""

from __future__ import annotations

import os
import string
from pathlib import Path

from llamakit.smoke.recital import (
    EOS,
    SPACE,
    Logits,
    Vocabulary,
    byte_token,
    chain,
    next_token_logits,
    recital,
)
from llamakit.smoke.stand_in import CONTEXT_LENGTH

TEXT = (
    "This is llamakit's built-in smoke model, not a real language model. "
    "It recites these same words whatever you ask. "
    "It was made on the spot, because no model file could be fetched or found, "
    "and lets you try out keys, limits and clients until there is one. "
    "For real answers, put a GGUF file under models/ or run ./console.sh add, "
    "then run ./console.sh start."
)

START = "<|recite|>"
RISING = ("[", "{", "a", "t", "0", ":", ",", "]", "}", '"', EOS)  # the last is the likeliest
CONTROLS = ("<|im_start|>", "<|im_end|>", START)
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n" + START + "{% endif %}"
)


def logit_of_rank(rank: float) -> float:
    """Logits a factor 1.4 apart, so that a repetition penalty of 1.1 can't swap two ranks."""
    return float(60.0 * 1.4**rank)


def smoke_pieces(text: str = TEXT) -> list[str]:
    """Cuts the text into pieces that each occur once: words, joined with the next on repetition."""
    pieces: list[str] = []
    held = ""
    for word in text.split(" "):
        held += f" {word}" if pieces or held else word
        if held not in pieces:
            pieces.append(held)
            held = ""
    if held:
        raise ValueError(f"the text ends in {held!r}, which it already contains")
    return pieces


def closing_logits(vocabulary: Vocabulary) -> Logits:
    """Logits that make the shortest valid JSON the likeliest text under any JSON grammar.

    A grammar forbids what is invalid; among the rest, ending beats closing a string, which beats
    closing a container, which beats going on. After an opening bracket its closing one comes first
    (empty containers), and inside a string letters come before brackets (when a minimum length
    forbids to close it).
    """
    ids, size = vocabulary.ids, len(vocabulary)
    logits = [[0.0] * size for _ in range(size)]
    for rank, text in enumerate(RISING):
        logits[ids[text]] = [logit_of_rank(rank)] * size
    quote = RISING.index('"')
    for before in ('"', *string.ascii_letters):
        logits[ids["a"]][ids[before]] = logit_of_rank(quote - 0.5)
    for opening, closing in ("{}", "[]"):
        logits[ids[closing]][ids[opening]] = logit_of_rank(quote + 0.5)
    for text in (SPACE, *(byte_token(value) for value in range(256))):
        logits[ids[text]] = [-logit_of_rank(0)] * size
    return logits


def smoke_model() -> bytes:
    """The content of the smoke model's file (0.3 s, 2 MB)."""
    vocabulary = Vocabulary.basic()
    vocabulary.add_control(CONTROLS)
    pieces = smoke_pieces()
    table = chain(vocabulary, START, pieces)
    table |= chain(vocabulary, EOS, pieces)
    # Only the successors of the recital are set by the table; elsewhere the ranking decides.
    recited = next_token_logits(vocabulary, table, logit_of_rank(len(RISING) + 1))
    logits = closing_logits(vocabulary)
    for candidate, row in enumerate(logits):
        for start in table:
            row[start] += recited[candidate][start]
    return recital(
        name="llamakit built-in smoke model",
        description="Recites a fixed text. Not a real language model.",
        vocabulary=vocabulary,
        logits=logits,
        chat_template=CHAT_TEMPLATE,
        context_length=CONTEXT_LENGTH,
    )


def write_smoke_model(path: Path) -> None:
    """Makes the smoke model at ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(smoke_model())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
