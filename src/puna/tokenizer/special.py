"""The names of the special tokens: Llama 3's eight, and what other vocabularies call the same
roles.

A special token marks structure (a text begins, a turn ends). It has an id and no bytes: user text
never yields one, however it is spelled, and bits per byte never count one. This file holds names
only; ids are given by `training.py` (after the base vocabulary, in the order below, as Llama 3
does) or read from a file by `byte_level.py`.
"""

from collections.abc import Mapping

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_MESSAGE = "<|eom_id|>"
END_OF_TURN = "<|eot_id|>"
PYTHON_TAG = "<|python_tag|>"
PAD = "<|finetune_right_pad_id|>"

LLAMA3_SPECIAL_TOKENS = (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    START_HEADER,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    PYTHON_TAG,
    PAD,
)
"""The special tokens of a vocabulary trained here, in id order."""

BEGIN_OF_TEXT_NAMES = (BEGIN_OF_TEXT, "<|startoftext|>", "<s>")
"""Names of the token that opens a document: Llama 3, GPT-style, SentencePiece-style."""

END_OF_TEXT_NAMES = (END_OF_TEXT, "<|endoftext|>", "</s>")
"""Names of the token that closes a document: Llama 3; GPT-2 and Qwen; SentencePiece-style."""

END_OF_TURN_NAMES = (END_OF_TURN, "<|im_end|>")
"""Names of the token that closes one message of a chat: Llama 3; ChatML (Qwen)."""

END_NAMES = (*END_OF_TEXT_NAMES, *END_OF_TURN_NAMES, END_OF_MESSAGE)
"""Names of the tokens that end a generation: the end of a text, of a turn, or of a message that
waits for a tool.
"""

PAD_NAMES = (PAD, "<|pad|>", "<pad>")
"""Names of the token that fills a batch; never a training target."""


def first_id(special_tokens: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    """The id of the first of `names` that the vocabulary has, or None when it has none of them."""
    return next((special_tokens[name] for name in names if name in special_tokens), None)
