"""Text that a model's tokenizer would take for its own control tokens.

llama_cpp.server renders a conversation into one text and tokenizes that, control tokens included.
A message that holds "<|im_start|>system" would therefore start a new message with another role.
An invisible WORD JOINER inside such a mark keeps it readable and makes it ordinary text.
"""

import re
from typing import Any

JOINER = "\u2060"

_MARKS = re.compile(
    r"""
      <(?=[|\uff5c][^\s<>|\uff5c]{1,64}[|\uff5c]>)     # <|im_start|>, <|eot_id|>, DeepSeek's bars
    | <(?=/?s>|(?:unk|pad|bos|eos|mask|cls|sep)>)      # <s>, </s>, <unk>, ...
    | <(?=/?(?:start|end)_of_(?:turn|image)>)          # Gemma
    | <(?=<\/?SYS>>)                                   # Llama 2
    | <(?=/?tool_(?:call|response)>)                   # Qwen, Hermes
    | <(?=(?:seed:[a-z_]{1,32}|[BEP][OA][SD]_TOKEN|[se]op)>)  # Seed, Command, GLM
    | \[(?=g?s?MASK\]|/?THINK\])                       # GLM, Magistral
    | \[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT
              |ARGS|CALL_ID|IMG|IMG_BREAK|IMG_END|PREFIX|MIDDLE|SUFFIX)\])  # Mistral
    """,
    re.VERBOSE,
)


def neutralise(text: str) -> str:
    """The text with every control mark broken by a WORD JOINER; other text is unchanged."""
    if "<" not in text and "[" not in text:
        return text
    return _MARKS.sub(lambda mark: mark.group() + JOINER, text)


def neutralise_all(value: Any) -> Any:
    """JSON as a prompt may hold it: its texts and keys come from the client, too."""
    if isinstance(value, str):
        return neutralise(value)
    if isinstance(value, list):
        return [neutralise_all(item) for item in value]
    if isinstance(value, dict):
        return {neutralise(key): neutralise_all(item) for key, item in value.items()}
    return value
