"""`puna merge`: a model folder and a LoRA adapter to one model folder, which every program opens
without knowing of adapters.
"""

from pathlib import Path
from typing import Annotated

import typer

from puna.cli.generate import ModelFolder


def merge(
    model: ModelFolder,
    adapter: Annotated[
        Path,
        typer.Argument(
            help="A LoRA adapter: the folder that PEFT's save_pretrained wrote.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="The model folder to write; it must not exist yet.", show_default=False
        ),
    ],
) -> None:
    """Add a LoRA adapter to the weights of the model that it was trained on, and write the sum as a
    model folder.

    An adapter keeps beside a weight W of a model two thin matrices A and B, of
    rank r, and the model computes (W + alpha/r B A) x. Here that sum is taken
    once: in float32, rounded to the number format of the model's own weights.
    The result is as large and as fast as the model, and holds this adapter
    only. To choose an adapter for each request, leave it unmerged.

    Neither folder is changed. Tokenizer, configuration and generation defaults
    are the model's. PEFT writes `adapter_config.json` and
    `adapter_model.safetensors`; an adapter that is more than LoRA (DoRA, trained
    biases or embeddings) is rejected with the reason.

    Examples:

        puna merge models/llama-3.2-1b my-adapter models/llama-3.2-1b-mine

        puna generate models/llama-3.2-1b-mine "Once upon a time"
    """
    from puna.model.adapters import write_merged

    changed = write_merged(model, adapter, out)
    typer.echo(f"{out}: {model} with {adapter} merged into {len(changed)} weights")
