"""llguidance, xgrammar and Puna's matcher behind one interface, for benchmarks/constrain.py. No
program.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import llguidance
import numpy as np
import xgrammar

from puna.inference.constrain import ConstraintCompiler
from puna.inference.request import Constraint
from puna.tokenizer.tokenizer import Tokenizer

NAMES = ("llguidance", "xgrammar", "puna")
Text = tuple[Callable[[], np.ndarray], Callable[[int], bool], Callable[[int], Any]]
"""A constraint at the beginning of a text: the next mask, bool [V]; one token on, if it is allowed;
some tokens back.
"""


class Pieces:
    """A tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)]
        self.special_token_ids: list[int] = []
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, None

    def __call__(self, text: bytes) -> list[int]:
        return self.tokenizer.encode(text.decode())


class Contestants:
    """The three on one vocabulary. `seconds`: what it took them to take it in."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.size = tokenizer, tokenizer.vocab_size
        self.seconds: dict[str, float] = {}
        self.seconds["llguidance"], self.llguidance = timed(
            lambda: llguidance.LLTokenizer(llguidance.TokenizerWrapper(Pieces(tokenizer)))
        )
        self.seconds["xgrammar"], self.info = timed(
            lambda: xgrammar.TokenizerInfo(
                Pieces(tokenizer).tokens,
                vocab_type=xgrammar.VocabType.RAW,
                vocab_size=self.size,
                stop_token_ids=[tokenizer.eos_id],
            )
        )
        self.seconds["puna"], self.puna = timed(lambda: ConstraintCompiler(tokenizer, self.size))

    def start(self, name: str, kind: str, given: Any) -> Text:
        """Compile, or raise an exception whose first line says what is wrong."""
        return getattr(self, f"start_{name}")(
            kind, given if isinstance(given, str) else json.dumps(given)
        )

    def start_puna(self, kind: str, text: str) -> Text:
        kinds: dict[str, Any] = {"json": "json_schema", "regex": "regex", "lark": "grammar"}
        matcher = self.puna.compile(
            Constraint(kind=kinds[kind], text=text), ends=[self.tokenizer.eos_id]
        )
        return matcher.allowed, matcher.accept, matcher.rewind

    def start_llguidance(self, kind: str, text: str) -> Text:
        grammar = getattr(
            llguidance.LLMatcher,
            {"json": "grammar_from_json_schema"}.get(kind, f"grammar_from_{kind}"),
        )(text)
        engine = llguidance.LLMatcher(self.llguidance, grammar, log_level=0)

        def mask() -> np.ndarray:
            bits = engine.compute_bitmask()
            if engine.is_error():
                raise ValueError(engine.get_error().strip())
            return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[
                : self.size
            ].view(bool)

        if engine.is_error():
            raise ValueError(engine.get_error().strip())
        return mask, lambda token: engine.try_consume_tokens([token]) == 1, engine.rollback

    def start_xgrammar(self, kind: str, text: str) -> Text:
        compiler = xgrammar.GrammarCompiler(self.info, max_threads=1, cache_enabled=False)
        if kind != "json":
            compiled = getattr(compiler, f"compile_{kind}")(text)
        else:
            compiled = compiler.compile_json_schema(
                text, any_whitespace=False, separators=(",", ":"), strict_mode=False
            )
        matcher = xgrammar.GrammarMatcher(compiled)
        words = xgrammar.allocate_token_bitmask(1, self.size)

        def mask() -> np.ndarray:
            matcher.fill_next_token_bitmask(words)
            return np.unpackbits(words.numpy().view(np.uint8), bitorder="little")[: self.size].view(
                bool
            )

        return mask, matcher.accept_token, matcher.rollback


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of all cores, and what came of it."""
    begin = time.process_time()
    given = work()
    return time.process_time() - begin, given
