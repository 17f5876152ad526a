"""`puna generate` and `puna chat`: text from a model folder, as it comes."""

import gc
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from puna.cli.inference_options import Isa, KVCacheDtype, Weights
from puna.errors import ConfigError

if TYPE_CHECKING:
    from puna.inference.language_model import LanguageModel

ModelFolder = Annotated[
    Path,
    typer.Argument(
        help="A model folder: Puna's or any LLaMA in Hugging Face's layout.", show_default=False
    ),
]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.", show_default="all")]
TopP = Annotated[
    float | None,
    typer.Option(help="Keep the fewest tokens whose probabilities reach p.", show_default="0.95"),
]
MinP = Annotated[
    float | None,
    typer.Option(
        help="Keep tokens with this fraction of the likeliest one's probability.", show_default="0"
    ),
]
Penalty = Annotated[
    float | None,
    typer.Option(help="Above 1: tokens already seen become less likely.", show_default="1"),
]
Seed = Annotated[
    int | None, typer.Option(help="Equal seeds give equal text.", show_default="fresh")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="End at this text; may be given several times.", show_default=False),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="Write with this LoRA adapter: a folder in PEFT's format.", show_default="none"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]

GenerationConfig = Annotated[
    Literal["auto", "none"],
    typer.Option(
        help=(
            "auto: the options of sampling in the folder's generation_config.json take the place"
            " of the defaults here; none: they do not."
        )
    ),
]
_OF_GENERATE: Mapping[str, Any] = MappingProxyType(
    {"max_tokens": 256, "temperature": 0.8, "top_p": 0.95}
)
_OF_CHAT: Mapping[str, Any] = MappingProxyType(
    {"max_tokens": 512, "temperature": 0.7, "top_p": 0.95}
)

_ADAPTER = "adapter"  # what the one that was given is called


def generate(
    model: ModelFolder,
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue.", show_default=False)
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            help="Continue these ids instead of a text, such as '1 2 3'.", show_default=False
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help=(
                "Lay the prompt out as a message of the user: own for the model's layout, llama3,"
                " chatml, alpaca, none, or a file in Jinja."
            ),
            show_default="continue the text as it is",
            metavar="NAME|FILE",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens to generate at most.", show_default="256")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Divides the logits; 0 takes the likeliest token.", show_default="0.8"),
    ] = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    stop: Stop = None,
    n: Annotated[
        int,
        typer.Option("--n", "-n", help="Continuations; several are printed one after the other."),
    ] = 1,
    generation_config: GenerationConfig = "auto",
    adapter: Adapter = None,
    device: Device = "auto",
    isa: Isa = "auto",
    weights: Weights = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
) -> None:
    """Continue a text with a model, token by token.

    Examples:

        puna generate runs/quickstart/model "def main(" --temperature 0.6

        puna generate runs/quickstart/model "import " -n 3 --max-tokens 40 --seed 1

        puna generate models/chat "Name three rivers." --template own
    """
    if (prompt is None) == (ids is None):
        given = "neither" if prompt is None else "both"
        raise ConfigError(f"a text or --ids, but {given} was given: give one of them")
    if ids is not None and template is not None:
        raise ConfigError("--template lays out a text, but --ids are no text: give one of them")
    loaded = _loaded(
        model,
        device,
        adapter,
        generation_config,
        template,
        isa=isa,
        weights=weights,
        kv_cache_dtype=kv_cache_dtype,
    )
    options = _options(
        loaded,
        _OF_GENERATE,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        n=n,
        adapter=_ADAPTER if adapter else None,
    )
    shown, start = _start(loaded, prompt, ids, template)
    if n == 1:
        typer.echo(shown, nl=False)
        _print_stream(text for _, text in loaded.stream(start, **options))
        return
    for number, completion in enumerate(loaded.complete(start, **options), 1):
        typer.echo(f"--- {number} of {n}\n{shown}{completion.text}")


def _start(
    loaded: "LanguageModel", prompt: str | None, ids: str | None, template: str | None
) -> tuple[str, list[int]]:
    """The text to show ahead of what is generated, and the ids to continue. Raises ConfigError for
    ids that are none.
    """
    if prompt is None:
        words = (ids or "").replace(",", " ").split()
        wrong = next((word for word in words if not word.isdecimal() or len(word) > 9), None)
        if wrong is not None or not words:
            raise ConfigError(
                f"--ids {(wrong or ids or '')[:40]!r} is no id: give whole numbers with spaces"
                " between, such as '1 2 3'"
            )
        start = [int(word) for word in words]
        return loaded.tokenizer.decode(start), start
    if template is None:
        return prompt, loaded.encode_prompt(prompt)
    from puna.tokenizer.chat_template import Message

    return "", loaded.encode_chat([Message("user", prompt)])


def chat(
    model: ModelFolder,
    system: Annotated[
        str | None,
        typer.Option(
            help="What the assistant is told before the conversation.", show_default=False
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Layout of the chat: own, llama3, chatml, alpaca, none, or a file in Jinja.",
            show_default="the model's own",
            metavar="NAME|FILE",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a reply at most.", show_default="512")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Divides the logits; 0 takes the likeliest token.", show_default="0.7"),
    ] = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    generation_config: GenerationConfig = "auto",
    adapter: Adapter = None,
    device: Device = "auto",
    isa: Isa = "auto",
    weights: Weights = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
) -> None:
    """Talk with a model in the terminal. An empty line or Ctrl-D ends; /new forgets the
    conversation.

    The conversation is laid out by the model's own chat template. A model that was never trained
    on conversations continues the layout of one, and makes little sense.
    """
    from puna.tokenizer.chat_template import Message

    loaded = _loaded(
        model,
        device,
        adapter,
        generation_config,
        template,
        isa=isa,
        weights=weights,
        kv_cache_dtype=kv_cache_dtype,
    )
    options = _options(
        loaded,
        _OF_CHAT,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        adapter=_ADAPTER if adapter else None,
    )
    layout = loaded.chat_layout
    if template is not None or layout.is_foreign:
        typer.echo(f"layout of the chat: {layout.name}", err=True)
    opening = [Message("system", system)] if system else []
    messages = list(opening)
    while line := _ask():
        if line == "/new":
            messages = list(opening)
            continue
        messages.append(Message("user", line))
        messages.append(Message("assistant", _print_stream(loaded.chat(messages, **options))))


def _loaded(
    model: Path,
    device: str,
    adapter: Path | None,
    generation_config: str,
    template: str | None,
    **engine: str,
) -> "LanguageModel":
    """The model that the options name; says what texts its tokenizer does not give back.

    engine: settings of `EngineConfig`.
    """
    from puna.cli.inference_options import say_passed_over
    from puna.cli.vocabulary_view import say_loss
    from puna.config import validate
    from puna.inference.engine_config import EngineConfig
    from puna.inference.language_model import load

    # Nothing that is read is garbage: to look for it took a sixth of the start of SmolLM2-135M
    gc.disable()
    try:
        loaded = load(
            model,
            device,
            options=validate(EngineConfig, engine, "options of the engine"),
            adapters={_ADAPTER: adapter} if adapter else None,
            generation_config=generation_config == "auto",
            template=template,
        )
    finally:
        gc.enable()
    say_passed_over(engine["isa"], loaded.placement[0])
    say_loss(loaded.tokenizer)
    return loaded


def _options(loaded: "LanguageModel", own: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Options that were given, else those of generation_config.json, else `own`. Where the file has
    one of sampling, all of `own` about sampling give way: its publisher has chosen. Says which
    options came from the file.
    """
    from puna.inference.generation_defaults import FILE, SAMPLING, described

    chosen = {name: value for name, value in given.items() if value is not None}
    used = {name: value for name, value in loaded.defaults.items() if name not in chosen}
    if used:
        typer.echo(f"from {FILE}: {described(used)}", err=True)
    publisher_chose = any(name in loaded.defaults for name in SAMPLING)
    kept = {
        name: value for name, value in own.items() if not (publisher_chose and name in SAMPLING)
    }
    return {**kept, **loaded.defaults, **chosen}


def _ask() -> str:
    try:
        return input("you: ").strip()
    except EOFError:
        return ""


def _print_stream(pieces: Iterable[str]) -> str:
    text = ""
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        text += piece
    typer.echo()
    return text
