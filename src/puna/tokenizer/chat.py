r"""A conversation as token ids, in Llama 3's layout.

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n...

Two ways lead there. `encode_chat` builds the ids piece by piece: markers from their ids, everything that a person wrote
through `Tokenizer.encode`, which cannot yield a special token, so no message can close its own turn and open another.
`CHAT_TEMPLATE` is the same layout for engines that render a string first (transformers, vLLM, llama.cpp); it goes into
`tokenizer_config.json`. Both strip white space around a message, as Llama 3's template does, and they give equal ids
for ordinary text with digits "one" and "three". They part in two cases, both by the string's fault: a message that
spells a marker, which the string turns into the marker; and digits "off", where GPT-2's pattern cuts the blank line
after a header differently when text follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from puna.errors import TokenizerError
from puna.tokenizer.special import BEGIN_OF_TEXT, END_HEADER, END_OF_TURN, START_HEADER

if TYPE_CHECKING:
    from puna.tokenizer.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]

CHAT_TOKENS = (BEGIN_OF_TEXT, START_HEADER, END_HEADER, END_OF_TURN)
"""The special tokens that a vocabulary must have to hold a chat."""

CHAT_TEMPLATE = r"""{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif -%}
"""
"""The layout in Jinja; transformers passes it `messages`, `bos_token` and `add_generation_prompt`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class ChatIds:
    """A conversation as ids, and which of them a model should learn to produce."""

    ids: list[int]
    """Token ids [T], opening with <|begin_of_text|>."""
    loss_mask: list[bool]
    """[T], true on the assistant's words and the <|eot_id|> after them. It marks `ids[t]` as a target, so it is shifted
    with the targets: the usual mistake is to apply it to the positions that predict."""


def encode_chat(tokenizer: "Tokenizer", messages: Sequence[Message], *, add_generation_prompt: bool = False) -> ChatIds:
    """Lay `messages` out as ids; with `add_generation_prompt` the ids end where the assistant's next answer begins.

    Raises TokenizerError for no messages, an unknown role, or a vocabulary without the chat's special tokens. Any order
    of roles is laid out as given.
    """
    if not messages:
        raise TokenizerError("the chat has no messages; give at least one, such as Message('user', 'Hello')")
    missing = [name for name in CHAT_TOKENS if name not in tokenizer.special_tokens]
    if missing:
        raise TokenizerError(f"the vocabulary lacks {', '.join(missing)}, so it cannot lay out a chat; use Puna's or Llama 3's")
    begin, start_header, end_header, end_of_turn = (tokenizer.special_tokens[name] for name in CHAT_TOKENS)

    def header(role: str) -> list[int]:
        return [start_header, *tokenizer.encode(role), end_header, *tokenizer.encode("\n\n")]

    ids, loss_mask = [begin], [False]
    for message in messages:
        if message.role not in get_args(Role):
            raise TokenizerError(f"the role is {message.role!r}; choose one of {', '.join(get_args(Role))}")
        opening = header(message.role)
        body = [*tokenizer.encode(message.content.strip()), end_of_turn]
        ids += opening + body
        loss_mask += [False] * len(opening) + [message.role == "assistant"] * len(body)
    if add_generation_prompt:
        opening = header("assistant")
        ids += opening
        loss_mask += [False] * len(opening)
    return ChatIds(ids, loss_mask)
