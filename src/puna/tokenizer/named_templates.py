"""Chat templates that can be chosen by name where a model brings none, or a wrong one.

Sources: ChatML, OpenAI's `chatml.md` (openai-python 0.27); Alpaca, the prompts of the Stanford
Alpaca project (Taori et al. 2023), whose system message is the sentence ahead of the instruction.
Both have no place for tools.
"""

from collections.abc import Mapping
from types import MappingProxyType

_CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_ALPACA = """{{- bos_token }}
{%- if messages[0]['role'] != 'system' %}
    {{- 'Below is an instruction that describes a task. Write a response that appropriately ' }}
    {{- 'completes the request.\\n\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- message['content'] + '\\n\\n' }}
    {%- elif message['role'] == 'user' %}
        {{- '### Instruction:\\n' + message['content'] + '\\n\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}
    {%- else %}
        {{- raise_exception('a chat in the form of Alpaca has no messages of a tool') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### Response:\\n' }}
{%- endif %}
"""

NAMED_TEMPLATES: Mapping[str, str] = MappingProxyType({"chatml": _CHATML, "alpaca": _ALPACA})
"""Jinja texts by name."""
