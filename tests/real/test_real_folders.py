"""SmolLM2-135M-Instruct as a folder that transformers wrote, in each form in which people have
it.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from packages import smollm2

from puna.model.weights import read_model

IDS = torch.tensor([[1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519]])


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    transformers.logging.disable_progress_bar()
    path = smollm2()
    read = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    # what came of a GGUF file is not written by transformers, an equal model is
    config = transformers.LlamaConfig(
        **{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    )
    plain = transformers.LlamaForCausalLM(config).eval()
    plain.load_state_dict(read.state_dict())
    return plain


@pytest.mark.parametrize("shard", ["5GB", "100MB"])
def test_the_logits_are_those_of_transformers(theirs: Any, shard: str, tmp_path: Path) -> None:
    """Logits are of size 10 here."""
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    with torch.no_grad():
        expected, logits = theirs(IDS).logits, read_model(tmp_path)(IDS)
    assert float((logits - expected).abs().max()) < 2e-4
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


def test_bfloat16_is_off_by_no_more_than_transformers_is(theirs: Any, tmp_path: Path) -> None:
    """Eight bits through thirty layers: both are held against float32."""
    with torch.no_grad():
        exact = theirs(IDS).logits
        theirs.bfloat16().save_pretrained(tmp_path)
        ours = read_model(tmp_path)
        off = [float((model - exact).square().mean()) for model in (ours(IDS), theirs(IDS).logits)]
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert off[0] < 1.5 * off[1]
