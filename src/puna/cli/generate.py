"""`puna generate` and `puna chat`: text from a model folder, as it comes."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ModelFolder = Annotated[
    Path,
    typer.Argument(
        help="A model folder: Puna's or any LLaMA in Hugging Face's layout.", show_default=False
    ),
]
MaxTokens = Annotated[int, typer.Option(help="Tokens to generate at most.")]
Temperature = Annotated[
    float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")
]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.", show_default="all")]
TopP = Annotated[float, typer.Option(help="Keep the fewest tokens whose probabilities reach p.")]
MinP = Annotated[
    float, typer.Option(help="Keep tokens with this fraction of the likeliest one's probability.")
]
Penalty = Annotated[float, typer.Option(help="Above 1: tokens already seen become less likely.")]
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

_ADAPTER = "adapter"  # what the one that was given is called


def generate(
    model: ModelFolder,
    prompt: Annotated[str, typer.Argument(help="The text to continue.", show_default=False)],
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    n: Annotated[
        int,
        typer.Option("--n", "-n", help="Continuations; several are printed one after the other."),
    ] = 1,
    adapter: Adapter = None,
    device: Device = "auto",
) -> None:
    """Continue a text with a model, token by token.

    Examples:

        puna generate runs/quickstart/model "def main(" --temperature 0.6

        puna generate runs/quickstart/model "import " -n 3 --max-tokens 40 --seed 1
    """
    options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": tuple(stop or ()),
        "n": n,
        "adapter": _ADAPTER if adapter else None,
    }
    from puna.inference.language_model import load

    loaded = load(model, device, adapters={_ADAPTER: adapter} if adapter else None)
    if n == 1:
        pieces = loaded.stream(loaded.encode_prompt(prompt), **options)
        typer.echo(prompt, nl=False)
        _print_stream(text for _, text in pieces)
        return
    for number, completion in enumerate(loaded.complete(prompt, **options), 1):
        typer.echo(f"--- {number} of {n}\n{prompt}{completion.text}")


def chat(
    model: ModelFolder,
    system: Annotated[
        str | None,
        typer.Option(
            help="What the assistant is told before the conversation.", show_default=False
        ),
    ] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    adapter: Adapter = None,
    device: Device = "auto",
) -> None:
    """Talk with a model in the terminal. An empty line or Ctrl-D ends; /new forgets the
    conversation.

    A model that was never trained on conversations continues the layout of one, and makes little
    sense.
    """
    from puna.inference.language_model import load
    from puna.tokenizer.chat_template import Message

    loaded = load(model, device, adapters={_ADAPTER: adapter} if adapter else None)
    options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "adapter": _ADAPTER if adapter else None,
    }
    opening = [Message("system", system)] if system else []
    messages = list(opening)
    while line := _ask():
        if line == "/new":
            messages = list(opening)
            continue
        messages.append(Message("user", line))
        messages.append(Message("assistant", _print_stream(loaded.chat(messages, **options))))


def _ask() -> str:
    try:
        return input("you: ").strip()
    except EOFError:
        return ""


def _print_stream(pieces: Any) -> str:
    text = ""
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        text += piece
    typer.echo()
    return text
