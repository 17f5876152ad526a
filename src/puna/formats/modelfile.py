"""Ollama's Modelfile for a GGUF file: where the weights are, how a chat is laid out, what ends an
answer, how it is sampled.

The layout is written as a Go template. Puna's own (Llama 3's) and ChatML are known; a model with
another Jinja template is refused, because nothing would show that the two say the same.

Source: github.com/ollama/ollama, docs/modelfile.md and docs/template.md. Usual mistake: the begin
token in the template, which the engine adds by itself.
"""

from collections.abc import Mapping
from typing import Any

from puna.errors import ModelFolderError
from puna.tokenizer.chat_template import CHAT_TEMPLATE
from puna.tokenizer.tokenizer import Tokenizer

_LLAMA3 = """{{- range .Messages }}<|start_header_id|>\
{{ if eq .Role "tool" }}ipython{{ else }}{{ .Role }}{{ end }}<|end_header_id|>

{{ .Content }}<|eot_id|>
{{- end }}<|start_header_id|>assistant<|end_header_id|>

"""
_PLAIN = "{{ .Prompt }}"

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
    template: str | None,
    context_length: int,
    generation: Mapping[str, Any],
) -> str:
    """The content of a Modelfile. weights: the GGUF file's name beside it. template: the model's
    Jinja template, if it has one. generation: the content of its generation_config.json.

    Raises ModelFolderError for a template that has no known Go form.
    """
    lines = [f"FROM ./{weights}", f'TEMPLATE """{_go_template(template)}"""']
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


def _go_template(template: str | None) -> str:
    if template is None:
        return _PLAIN
    if template == CHAT_TEMPLATE:
        return _LLAMA3
    raise ModelFolderError(
        f"the chat template of this model ({template[:60]!r}...) has no known form in Ollama's"
        " template language: export it with --to gguf, which carries the template as it is, and"
        " write a Modelfile by hand"
    )
