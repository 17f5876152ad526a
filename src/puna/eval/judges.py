"""The worth of an answer to one document of a shipped task: the same functions for the native runs
and for lm-evaluation-harness, which calls them by the names in `tasks/`.

Values of a metric are numbers, of which the mean counts, or pairs of nats and bytes, of which
bits per byte does:

    bits per byte = -sum of ln p / ln 2 / sum of UTF-8 bytes
"""

import ast
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

Values = dict[str, float | tuple[float, float]]


def judge_continuation(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> Values:
    """Of a continuation with its log-likelihood: 1 where greedy decoding gives it, also under the
    document's level; and its log-likelihood beside its bytes.
    """
    logprob, is_greedy = results[0]
    right = float(is_greedy)
    by_level = {f"acc_{doc['level']}": right} if "level" in doc else {}
    size = float(len(doc["target"].encode()))
    return {"bits_per_byte": (float(logprob), size), "acc": right, **by_level}


def judge_text(doc: Mapping[str, Any], results: Sequence[float]) -> Values:
    """Of a whole text: its log-likelihood beside its bytes."""
    return {"bits_per_byte": (float(results[0]), float(len(doc["text"].encode())))}


def judge_python(doc: Mapping[str, Any], results: Sequence[str]) -> Values:
    """1 where the prompt is still Python with what the model has added, and holds more code; of a
    text that was cut off inside a line, with the lines before that one.
    """
    before, code = _parsed(doc["prompt"]), doc["prompt"] + results[0]
    whole_lines = code.rpartition("\n")[0] + "\n"
    return {
        "parses": float(any(_parsed(text) not in (None, before) for text in (code, whole_lines)))
    }


def _parsed(code: str) -> str | None:
    """The code's syntax tree as a text, None for what is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an invalid escape, which is Python still
            return ast.dump(ast.parse(code))
    # a NUL, deep nesting, and what the grammar rejects
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
