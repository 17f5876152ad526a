"""needs: lm-eval[api]."""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_DATASETS_OFFLINE"] = "1"
import lm_eval
from lm_eval.tasks import TaskManager

ROWS = 8
CHOICES = """
task: cities
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["Rome", "Oslo"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""
PERPLEXITY = """
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
"""
CONTINUATION = """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "Rome"
generation_kwargs: {max_gen_toks: 5, until: ["."]}
metric_list: [{metric: exact_match}]
"""

with tempfile.TemporaryDirectory() as folder:
    rows = Path(folder, "rows.jsonl")
    rows.write_text("".join(json.dumps({"question": f"City {i}?"}) + "\n" for i in range(ROWS)))
    for name, task in (("cities", CHOICES), ("texts", PERPLEXITY), ("answers", CONTINUATION)):
        Path(folder, f"{name}.yaml").write_text(task % rows)
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "tiny",
            "base_url": f"{os.environ['OPENAI_BASE_URL']}/completions",
            "tokenizer_backend": "remote",
            "max_retries": 1,
        },
        tasks=["cities", "texts", "answers"],
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        bootstrap_iters=0,
    )["results"]
assert 0 <= results["cities"]["acc,none"] <= 1
assert results["texts"]["bits_per_byte,none"] > 0
assert results["answers"]["exact_match,none"] == 0
