"""Constrained output: token bitmasks by which the whole text matches a JSON schema, a regular
expression or a grammar.

llguidance does the work (docs/decisions/0010-llguidance-or-xgrammar.md): it walks the vocabulary's
trie with a lexer of derivatives and an Earley parser. Here stands what it leaves to its user: what
a constraint may say (`json_schema.py`, `lark.py`) and may cost (`constraint_limits.py`), end
tokens, and errors. A text never holds a special token, whatever the constraint says.

Nothing here imports torch, so the API server can reject a constraint before it queues. Cost:
benchmarks/constrain.py.
"""

import json
from collections.abc import Collection
from functools import cached_property
from itertools import takewhile

import llguidance
import numpy as np
import numpy.typing as npt

from puna.errors import RequestError, TokenizerError
from puna.inference.constraint_limits import (
    DEFAULT_LIMITS,
    ConstraintLimits,
    check_regex,
    check_text,
)
from puna.inference.json_schema import read_schema
from puna.inference.lark import read_grammar
from puna.inference.request import Constraint
from puna.tokenizer.tokenizer import Tokenizer

_NAMES = {"json_schema": "schema", "regex": "regular expression", "grammar": "grammar"}
# bounded by the size of a schema, but by the length of the text for a grammar
_ROWS = {"json_schema": 1_000, "regex": 500, "grammar": 700}


def check(constraint: Constraint, limits: ConstraintLimits = DEFAULT_LIMITS) -> None:
    """Raise RequestError, saying what to change, for a constraint that is malformed, not supported
    or asks for too much.

    It needs no vocabulary. What passes can still fail to compile, if no text at all matches it.
    """
    if fault := llguidance.LLMatcher.validate_grammar(
        _grammar(constraint, limits), limits=_parser_limits(constraint)
    ):
        raise _request_error(constraint, fault)


class ConstraintCompiler:
    """Makes matchers for one vocabulary, which it lays out for that at the first; it is immutable,
    so threads may share it.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, limits: ConstraintLimits = DEFAULT_LIMITS
    ) -> None:
        """vocab_size: rows of the model's logits, at least those of the tokenizer; the ids beyond
        are never allowed.
        """
        assert vocab_size >= tokenizer.vocab_size, (
            f"{vocab_size} logits for {tokenizer.vocab_size} tokens"
        )
        self._tokenizer, self._vocab_size, self._limits = tokenizer, vocab_size, limits

    @cached_property
    def _text(self) -> npt.NDArray[np.bool_]:
        text = np.zeros(self._vocab_size, dtype=np.bool_)
        text[: self._tokenizer.vocab_size] = self._tokenizer.token_lengths() > 0
        return text

    @cached_property
    def _vocabulary(self) -> llguidance.LLTokenizer:
        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab_size))
        )

    def prepare(self) -> None:
        """Lay out the vocabulary now, in 0.1 s for 32,000 tokens, rather than at a `compile`."""
        _ = self._text, self._vocabulary

    def compile(self, constraint: Constraint, ends: Collection[int] | None = None) -> "Matcher":
        """A matcher at the beginning of a text.

        ends: ids that end the text; left out: the tokenizer's `end_ids`. Raises RequestError as
        `check` does, and for a constraint that no text matches. The library works without the
        interpreter's lock, so a thread may compile beside a step.
        """
        grammar = _grammar(constraint, self._limits)
        matcher = llguidance.LLMatcher(
            self._vocabulary, grammar, log_level=0, limits=_parser_limits(constraint)
        )
        if matcher.is_error():
            raise _request_error(constraint, matcher.get_error())
        ends = self._tokenizer.end_ids if ends is None else ends
        return Matcher(matcher, constraint, self._text, ends)


class Matcher:
    """Grammar matcher state of one text, and the bitmask of the tokens that may follow.

    State: the text so far, which `accept` extends and `rewind` shortens. One matcher serves one
    text and one thread. After a RequestError, which says that a step cost more than a constraint
    may, it is of no more use: end the request.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        constraint: Constraint,
        text: npt.NDArray[np.bool_],
        ends: Collection[int],
    ) -> None:
        self._matcher = matcher
        self._constraint = constraint
        self._text = text
        self._ends = np.array(sorted(ends), dtype=np.int64)
        self._ended = 0  # end tokens accepted
        self._accepted = 0  # all tokens accepted
        self._next: npt.NDArray[np.bool_] | None = None
        self._matcher.consume_tokens([])  # sees at once whether anything may follow
        self.allowed()

    def copy(self) -> "Matcher":
        """Another matcher at the beginning of a text, without compiling again; what either accepts
        does not change the other.
        """
        assert not self._accepted, "a text has begun"
        return Matcher(self._matcher.deep_copy(), self._constraint, self._text, self._ends.tolist())

    @property
    def finished(self) -> bool:
        """True once nothing but an end token may come: `allowed` is false for all others."""
        return self._ended > 0 or self._matcher.is_stopped()

    def allowed(self) -> npt.NDArray[np.bool_]:
        """The token bitmask: bool [V], true for tokens that may come next, not to be written to;
        end tokens where the text may end.

        Never all false, unless the text is finished and there are no end tokens. Raises
        RequestError if the step costs too much.
        """
        if self._next is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            if self._matcher.is_error():
                raise self._fault()
            mask = np.unpackbits(bits, count=len(self._text) + 1, bitorder="little").view(np.bool_)
            # the library's own end token is one beyond the vocabulary
            self._next, may_end = mask[:-1], mask[-1]
            np.logical_and(self._next, self._text if not self._ended else False, out=self._next)
            self._next[self._ends] = may_end
        return self._next

    def accept(self, token: int) -> bool:
        """Go on by a token that is allowed. False, and nothing is changed, for any other. Raises
        RequestError as `allowed` does.
        """
        mask = self.allowed()
        if not 0 <= token < len(mask) or not mask[token]:
            return False
        self._next = None
        if token in self._ends:
            self._ended += 1
        elif not self._matcher.consume_token(token):
            raise self._fault()
        self._accepted += 1
        return True

    def rewind(self, count: int) -> None:
        """Take back the last `count` tokens that were accepted, end tokens too."""
        assert 0 <= count <= self._accepted, (
            f"{count} of {self._accepted} tokens cannot be taken back"
        )
        ended = min(count, self._ended)
        self._ended -= ended
        if count > ended and not self._matcher.rollback(count - ended):
            raise self._fault()
        self._accepted -= count
        if count:
            self._next = None

    def _fault(self) -> RequestError:
        fault = self._matcher.get_error()
        if "NoExtension" in fault:
            return _request_error(
                self._constraint,
                (
                    f"no text matches it beyond the first {self._accepted} tokens"
                    if self._accepted
                    else "no text matches it"
                ),
            )
        return _request_error(
            self._constraint,
            f"after {self._accepted} tokens, the next asks for too much work: {fault}",
        )


class _Vocabulary:
    """The tokenizer as llguidance asks for it: bytes by id, and how text is best cut into tokens
    where a constraint leaves no choice.

    Special tokens and unused ids have no bytes. The end token that the library needs is one of its
    own, beyond the model's ids.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = [
            tokenizer.token_bytes(id_) if length else b""
            for id_, length in enumerate(tokenizer.token_lengths())
        ]
        # how the library marks special tokens
        self.tokens = [b"" if piece.startswith(b"\xff") else piece for piece in self.tokens]
        self.tokens += [b""] * (vocab_size + 1 - len(self.tokens))
        self._bytes = {piece[0]: id_ for id_, piece in enumerate(self.tokens) if len(piece) == 1}
        self.eos_token_id = vocab_size
        self.bos_token_id = None
        self.special_token_ids: list[int] = []

    def __call__(self, text: bytes) -> list[int]:
        try:
            ids = self._tokenizer.encode(text.decode(), inside_text=True)
        except TokenizerError:  # a character without a token
            ids = []
        if self._tokenizer.decode_bytes(ids) == text:
            return ids
        # a normalizer changed the text; the constraint wants it as it is, as far as there are bytes
        return [self._bytes[byte] for byte in takewhile(self._bytes.__contains__, text)]


def _grammar(constraint: Constraint, limits: ConstraintLimits) -> str:
    """The constraint as the library takes it, always as an object, since it infers what a bare
    text is.
    """
    check_text(constraint.text, limits, f"the {_NAMES[constraint.kind]}")
    if constraint.kind == "json_schema":
        return json.dumps({"grammars": [{"json_schema": read_schema(constraint.text, limits)}]})
    if constraint.kind == "grammar":
        return json.dumps({"grammars": [{"lark_grammar": read_grammar(constraint.text, limits)}]})
    check_regex(constraint.text, limits, "the regular expression")
    return llguidance.LLMatcher.grammar_from_regex(constraint.text)


def _parser_limits(constraint: Constraint) -> llguidance.LLParserLimits:
    """The bounds on the library's work, in its own units: of a step, and of the whole."""
    return llguidance.LLParserLimits(
        step_max_items=20_000,
        step_lexer_fuel=100_000,
        max_items_in_row=_ROWS[constraint.kind],
        initial_lexer_fuel=300_000,
        max_lexer_states=100_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def _request_error(constraint: Constraint, fault: str) -> RequestError:
    """The library's message in a line: of an error in a regex its reason, of others the first
    line.
    """
    lines = fault.strip().splitlines() or ["it cannot be used"]
    if lines[0].startswith("oneOf"):
        lines = [
            "`oneOf` is enforced only where its branches visibly exclude each other, as by type,"
            " and `anyOf` always"
        ]
    reason = next(
        (line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0]
    )
    return RequestError(
        f"the {_NAMES[constraint.kind]} cannot be used: {reason[:300]}; simplify or mend it"
    )
