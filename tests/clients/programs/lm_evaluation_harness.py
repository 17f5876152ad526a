"""needs: lm-eval[api]."""

import json
import os
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from lm_eval.evaluator import simple_evaluate
from lm_eval.models.openai_completions import LocalCompletionsAPI

rows = [
    {"context": "the llama reads", "choices": ["please", "object"], "answer": number % 2}
    for number in range(8)
]
shared = {"dataset_path": "json", "test_split": "train", "doc_to_text": "context"}
with tempfile.TemporaryDirectory() as folder:
    data = Path(folder, "rows.jsonl")
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shared["dataset_kwargs"] = {"data_files": str(data)}
    choice = {"task": "choice", "output_type": "multiple_choice", "doc_to_choice": "choices"}
    writing = {
        "task": "writing",
        "output_type": "generate_until",
        "doc_to_target": "context",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    }
    answer = simple_evaluate(
        # without a tokenizer of its own: by /tokenizer_info, /tokenize and /detokenize
        model=LocalCompletionsAPI(
            base_url=f"{os.environ['OPENAI_BASE_URL']}/completions", model="tiny"
        ),
        tasks=[shared | choice | {"doc_to_target": "answer"}, shared | writing],
        bootstrap_iters=0,
    )
figures = answer["results"]
assert figures["choice"]["acc,none"] == 0.5  # equal prompts, of which half are right
assert figures["writing"]["exact_match,none"] == 0.0
assert all(len(sample["resps"][0][0]) > 0 for sample in answer["samples"]["writing"])
for sample in answer["samples"]["choice"]:
    for ((logprob, _),) in sample["resps"]:
        assert float(logprob) < 0
