"""Learning a byte-level BPE vocabulary from a stream of texts.

Start from the 256 bytes; count how often each pair of neighbouring tokens occurs inside the pieces
of `pretokenize.py`; join the most frequent pair into a new token; repeat until the vocabulary is
full or no pair occurs twice. The merging is `tokenizers`' BpeTrainer, which is given the words of
`word_counts.py`; this file chooses the sample and the settings so that the same texts give the same
file, byte for byte, for any number of threads: counts are sums, ties go to the smaller pair of ids,
and the alphabet is fixed.

Time grows in proportion to the sample, and memory stays below 600 MB, whatever the text.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice, repeat

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from puna.errors import TokenizerError
from puna.tokenizer.byte_level import byte_characters
from puna.tokenizer.pretokenize import build_pre_tokenizer, check_digits, cut_text, encode_utf8
from puna.tokenizer.special import BEGIN_OF_TEXT, LLAMA3_SPECIAL_TOKENS

MIN_VOCAB_SIZE = 256 + len(LLAMA3_SPECIAL_TOKENS)
"""Every byte and every special token: the smallest vocabulary that is lossless."""

DEFAULT_SAMPLE_BYTES = 200_000_000
"""About two minutes of work at the rate above, and a tenth of what the counts can hold."""

MAX_SAMPLE_BYTES = 2_000_000_000
"""`tokenizers` keeps pair counts in signed 32-bit integers and lets them wrap in silence, which
loses exactly the most frequent merges ("the" falls apart). A pair occurs at most once for each byte
of text, so fewer than 2^31 bytes cannot wrap.
"""

_PIECE_CHARACTERS = 1 << 16
_BATCH_WORDS = 256  # the library holds 256 batches at a time, and a word has up to 768 bytes


def train_definition(
    texts: Iterable[str],
    vocab_size: int,
    digits: str,
    max_bytes: int,
    on_progress: Callable[[int], None] | None,
) -> str:
    """Train and return the content of a `tokenizer.json`; see `Tokenizer.train` for the meaning of
    the arguments.
    """
    mode = check_digits(digits)
    if vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; it must be at least {MIN_VOCAB_SIZE}: 256 bytes and"
            f" {len(LLAMA3_SPECIAL_TOKENS)} special tokens"
        )
    if not 0 < max_bytes <= MAX_SAMPLE_BYTES:
        raise TokenizerError(
            f"max_bytes is {max_bytes:,}; it must lie between 1 and {MAX_SAMPLE_BYTES:,}, because"
            " the pair counts are 32-bit and would wrap on a larger sample; a few hundred"
            " megabytes are enough for any vocabulary"
        )
    if isinstance(texts, str):
        raise TokenizerError(
            "texts is one string, which would be read letter by letter; pass a list of texts, such"
            " as [text]"
        )

    from puna.tokenizer.word_counts import WordCounts  # with regex, which reading one does not need

    words = WordCounts(mode)
    read = 0
    for piece in _sample(texts, max_bytes):
        words.add(piece)
        read += len(piece.encode("utf-8"))
        if on_progress is not None:
            on_progress(read)
    if not read:
        raise TokenizerError(
            "there is no text to train on; name sources that hold at least one character"
        )

    # Llama 3's file, and so llama.cpp's "llama-bpe", takes a piece that is a token whole, without
    # walking its merges.
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=mode == "three"))
    trainer = trainers.BpeTrainer(
        # the special tokens are added behind what is learned, as in Llama 3's file
        vocab_size=vocab_size - len(LLAMA3_SPECIAL_TOKENS),
        # a pair seen once is a memory of one text, not a pattern
        min_frequency=2 * words.threshold,
        show_progress=False,
        # all 256, seen or not, in a fixed order: lossless, and the same file on every run
        initial_alphabet=sorted(byte_characters()),
    )
    backend.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    backend.train_from_iterator(_spelled(words.counts), trainer)
    backend.pre_tokenizer = build_pre_tokenizer(mode)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(name, special=True, normalized=False)
            for name in LLAMA3_SPECIAL_TOKENS
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_OF_TEXT} $A",
        pair=f"{BEGIN_OF_TEXT} $A {BEGIN_OF_TEXT} $B:1",
        special_tokens=[(BEGIN_OF_TEXT, backend.token_to_id(BEGIN_OF_TEXT))],
    )
    return backend.to_str(pretty=True)


def take_turns(streams: Iterable[Iterable[str]]) -> Iterator[str]:
    """One text from each stream in turn until all are empty, so that a size cap does not keep only
    the first stream.
    """
    # The inner loop takes one text, if there is one, and breaks; an empty stream drops out
    waiting = [iter(stream) for stream in streams]
    while waiting:
        still_open = []
        for stream in waiting:
            for text in stream:
                yield text
                still_open.append(stream)
                break
        waiting = still_open


def _sample(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """The first `max_bytes` bytes of the stream, in pieces that keep the trainer's memory flat, in
    whole characters.
    """
    left = max_bytes
    for text in texts:
        encoded = encode_utf8(text)
        if len(encoded) > left:
            # a character cut in two at the end is left out
            text = encoded[:left].decode("utf-8", errors="ignore")
        yield from (piece for piece in cut_text(text, _PIECE_CHARACTERS) if piece)
        left -= len(encoded)
        if left <= 0:
            return


def _spelled(counts: Mapping[str, int]) -> Iterator[str]:
    """Each word, spelled in the 256 byte characters, as often as it counts, with spaces between.

    The library offers no way to hand counts over; a space is none of the byte characters.
    """
    table = dict(enumerate(byte_characters()))
    words = chain.from_iterable(
        repeat(word.encode("utf-8").decode("latin-1").translate(table), count)
        for word, count in counts.items()
    )
    while batch := list(islice(words, _BATCH_WORDS)):
        yield " ".join(batch)
