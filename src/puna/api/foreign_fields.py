"""Fields that other servers added to OpenAI's interface, and the fields that Puna has for the same:
a table, no logic. json_body.py tells callers of them.

Names: those of vLLM, llama.cpp, Ollama, text-generation-inference and SGLang.
"""

from collections.abc import Mapping
from types import MappingProxyType

_SCHEMA = "`response_format` of the type json_schema"
_REGEX = "`response_format` of the type regex"
_GRAMMAR = "`response_format` of the type grammar"

FOREIGN_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "format": _SCHEMA,
        "guided_json": _SCHEMA,
        "json_schema": _SCHEMA,
        "guided_choice": _REGEX,
        "guided_regex": _REGEX,
        "regex": _REGEX,
        "ebnf": _GRAMMAR,
        "grammar": _GRAMMAR,
        "guided_grammar": _GRAMMAR,
        "structured_outputs": "`response_format`",
        "do_sample": "`temperature`",
        "ignore_eot": "`ignore_eos`",
        "max_gen_len": "`max_tokens`",
        "max_length": "`max_tokens`",
        "max_new_tokens": "`max_tokens`",
        "max_output_tokens": "`max_tokens`",
        "n_predict": "`max_tokens`",
        "num_predict": "`max_tokens`",
        "min_new_tokens": "`min_tokens`",
        "n_probs": "`logprobs`",
        "random_seed": "`seed`",
        "sampling_seed": "`seed`",
        "repeat_penalty": "`repetition_penalty`",
        "stop_sequences": "`stop`",
        "stop_strings": "`stop`",
        "typical": "`typical_p`",
    }
)
"""By the foreign name."""
