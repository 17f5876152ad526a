"""The model card of an exported folder: README.md with data, parameters, evaluation, licence, and
the lines that load the model. It says what puna.json knows, and names what it does not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.model.accounting import count_parameters
from puna.model.config import ModelConfig

LICENCE_FILES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
_UNKNOWN = "not recorded"


def model_card(
    name: str, config: ModelConfig, dtype: str, provenance: Mapping[str, Any], folder: Path
) -> str:
    """The text of README.md. provenance: the model's puna.json; folder: the model's, for licence
    files.
    """
    licences = sorted(path.name for pattern in LICENCE_FILES for path in folder.glob(pattern))
    sections = {
        "Data": _data(provenance),
        "Parameters": [
            f"{count_parameters(config).total:,} parameters in {dtype}",
            f"{config.num_layers} layers of width {config.width}, {config.num_heads} query heads,"
            f" {config.num_kv_heads} key/value heads, feed-forward width"
            f" {config.feed_forward_width}",
            f"vocabulary of {config.vocab_size:,}, context of {config.context_length:,} tokens",
        ],
        "Evaluation": _evaluation(provenance),
        "Licence": [
            f"see {', '.join(licences)}" if licences else f"{_UNKNOWN}: add yours before you share"
        ],
        "How to load": [],
    }
    text = f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# {name}\n\n"
    text += "".join(
        f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) + ("\n" if lines else "")
        for title, lines in sections.items()
    )
    return text + _LOAD


_LOAD = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```

```sh
puna generate . "Once upon a time"
```
"""


def _data(provenance: Mapping[str, Any]) -> list[str]:
    if isinstance(imported := provenance.get("imported"), Mapping):
        return [
            f"imported from {imported.get('source')} ({imported.get('kind')}) on"
            f" {imported.get('date')}; its training data is {_UNKNOWN} there"
        ]
    known = {
        "tokens": "tokens seen in training",
        "data_hash": "hash of the data's manifest",
        "recipe_hash": "hash of the recipe",
        "tokenizer_hash": "hash of the tokenizer",
    }
    lines = [f"{words}: {provenance[key]}" for key, words in known.items() if key in provenance]
    return lines or [_UNKNOWN]


def _evaluation(provenance: Mapping[str, Any]) -> list[str]:
    metrics = provenance.get("metrics")
    names = {
        "val_loss": "loss on validation text, nats per token",
        "val_bits_per_byte": "bits per byte on validation text",
    }
    if not isinstance(metrics, Mapping):
        return [f"{_UNKNOWN}: puna eval measures it on any text"]
    return [
        f"{names.get(key, key)}: {value:.4f}"
        for key, value in metrics.items()
        if isinstance(value, float)
    ] or [_UNKNOWN]
