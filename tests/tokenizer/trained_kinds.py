"""Tiny vocabularies of every kind, trained on the spot with the library `tokenizers`, in the shape
that published models have them.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from puna.tokenizer.byte_level import byte_characters

CORPUS = [
    "The llamas of the Andes carry wool; the llama's wool is warm, and they hum with it.",
    "In 2024 there were 12345 llamas, and in 2025 there were more. caf\u00e9 na\u00efve \U0001f999",
    "def carry(wool):\n    return wool + 1  # they carry\n\n\nprint(carry(2))\n",
] * 4
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MARKS = ["<unk>", "<s>", "</s>"]


def opened_by(backend: tokenizers.Tokenizer, begin: str = "<s>") -> tokenizers.Tokenizer:
    """With a post-processor that puts `begin` before every text."""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin} $B",
        special_tokens=[(begin, backend.token_to_id(begin))],
    )
    return backend


def llama2(prefixed: bool = True) -> tokenizers.Tokenizer:
    """LLaMA 2's: Prepend and Replace, byte fallback, a decoder that strips one space. Not prefixed:
    Gemma's.
    """
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "\u2581")
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prefixed else replace
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*MARKS, *BYTES], show_progress=False
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581*[^\u2581]+"), "isolated")
    backend.train_from_iterator(CORPUS, trainer)
    backend.pre_tokenizer = None
    steps: list[Any] = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] * prefixed)])
    return opened_by(without_marks(backend, BYTES))


def without_marks(backend: tokenizers.Tokenizer, names: list[str]) -> tokenizers.Tokenizer:
    """The trainer marks as special what must be in the vocabulary; published files do not."""
    content = json.loads(backend.to_str())
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] not in names
    ]
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def metaspace() -> tokenizers.Tokenizer:
    """What transformers 5 builds for LlamaTokenizer: a Metaspace that prefixes the first word."""
    backend = llama2()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", split=False)
    return backend


def metaspace_decoded() -> tokenizers.Tokenizer:
    """Metaspace on both sides, without byte fallback: T5's and many converted files."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=MARKS, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.decoder = decoders.Metaspace()
    return opened_by(backend)


def unigram() -> tokenizers.Tokenizer:
    """A Unigram model with byte fallback, in which <s> is a word like any other."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=MARKS, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    content = json.loads(backend.to_str())
    content["model"]["vocab"] += [[name, 0.0] for name in BYTES]
    content["model"]["byte_fallback"] = True
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    steps: list[Any] = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return opened_by(backend)


def byte_level(
    first: list[Any] | None = None, prefixed: bool = False, lacking: str = "", nfc: bool = False
) -> tokenizers.Tokenizer:
    """Byte-level BPE behind the pre-tokenizers `first`, without the bytes in `lacking`."""
    backend = tokenizers.Tokenizer(models.BPE())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=prefixed)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*(first or []), spelled])
    backend.normalizer = normalizers.NFC() if nfc else None
    alphabet = [each for byte, each in enumerate(byte_characters()) if chr(byte) not in lacking]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.decoder = decoders.ByteLevel()
    return opened_by(backend)


def wordpiece() -> tokenizers.Tokenizer:
    """BERT's."""
    names = ["[UNK]", "[CLS]", "[SEP]"]
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=names, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.decoder = decoders.WordPiece()
    return opened_by(backend, "[CLS]")


def end_of_word() -> tokenizers.Tokenizer:
    """The first GPT's: every word ends in </w>."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=MARKS, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.decoder = decoders.BPEDecoder()
    return opened_by(backend)


def word_level() -> tokenizers.Tokenizer:
    """Whole words, so that <s> in a text is the token <s> but for our care."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(vocab_size=60, special_tokens=MARKS, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return opened_by(backend)


SMOLLM_LACKS = "\x02\x05\x06\x07\x14\x16\x1d\x1e"

KINDS: Mapping[str, Callable[[], tokenizers.Tokenizer]] = MappingProxyType(
    {
        "llama2": llama2,
        "gemma": lambda: llama2(prefixed=False),
        "metaspace": metaspace,
        "metaspace_decoded": metaspace_decoded,
        "unigram": unigram,
        "byte_level": byte_level,
        "smollm": lambda: byte_level(
            [pre_tokenizers.Digits(individual_digits=True)], lacking=SMOLLM_LACKS
        ),
        "lacks_never_used": lambda: byte_level(lacking="\xc0\xc1\xf5\xf6\xf7\xf8\xfe\xff"),
        "prefixed_bytes": lambda: byte_level(prefixed=True),
        "nfc": lambda: byte_level(nfc=True),
        "wordpiece": wordpiece,
        "end_of_word": end_of_word,
        "word_level": word_level,
    }
)
"""Name to a function that trains one; a fraction of a second each."""
