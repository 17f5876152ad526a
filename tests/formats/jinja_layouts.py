"""Chat templates in the shapes that models have, and Jinja as transformers sets it up."""

from collections.abc import Callable

from jinja2.sandbox import ImmutableSandboxedEnvironment

from puna.errors import TokenizerError
from puna.tokenizer.chat_template import CHAT_TEMPLATE

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful llama<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}<<SYS>>\n{{ messages[0].content }}"
    "\n<</SYS>>\n\n{% endif %}{{ message.content }} [/INST]{% elif message.role == 'assistant' %}"
    " {{ message.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
LAYOUTS = {"llama3": CHAT_TEMPLATE, "chatml": CHATML, "zephyr": ZEPHYR, "gemma": GEMMA}
"""Those of fixed texts around each message; `LLAMA2` moves the system message into the first
question.
"""


def jinja(source: str) -> Callable[..., str]:
    """The rendering of a template."""

    def raise_exception(reason: str) -> None:
        raise TokenizerError(reason)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source).render
