"""Ollama's Modelfile for a GGUF file: where the weights are, how a chat is laid out, what ends an
answer, how it is sampled.

The layout of chats is a Go template (`go_template.py`); without one a prompt is continued as it is.

Source: github.com/ollama/ollama, docs/modelfile.md and docs/template.md. Usual mistake: the begin
token in the template, which the engine adds by itself.
"""

from collections.abc import Mapping
from typing import Any

from puna.tokenizer.tokenizer import Tokenizer

PLAIN = "{{ .Prompt }}"
"""The template of a model without chats."""

# generation_config.json's key -> Ollama's parameter
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}


def modelfile(
    weights: str,
    tokenizer: Tokenizer,
    template: str,
    context_length: int,
    generation: Mapping[str, Any],
) -> str:
    """The content of a Modelfile. weights: the GGUF file's name beside it. template: in Go.
    generation: the content of the model's generation_config.json.
    """
    lines = [f"FROM ./{weights}", f'TEMPLATE """{template}"""']
    ends = [name for name, id_ in tokenizer.special_tokens.items() if id_ in tokenizer.end_ids]
    lines += [f'PARAMETER stop "{name}"' for name in ends]
    lines.append(f"PARAMETER num_ctx {context_length}")
    sampling = generation if generation.get("do_sample", True) else {"temperature": 0}
    lines += [
        f"PARAMETER {theirs} {sampling[ours]:g}"
        for ours, theirs in _SAMPLING.items()
        if isinstance(sampling.get(ours), int | float)
    ]
    return "\n".join(lines) + "\n"
