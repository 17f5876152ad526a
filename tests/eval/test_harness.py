"""Figures through lm-evaluation-harness equal those of its own `hf` model on every shipped task,
and the native ones; needs the extra `eval`, and skips without it.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from said import said
from served import served

from puna.errors import ConfigError, DataError
from puna.eval.continuations import encode_pair, score_continuations
from puna.eval.harness import TASKS, load_tasks, run_harness, task_results
from puna.eval.shipped_tasks import choose_tasks, run_task, shipped_tasks
from puna.eval.task_result import TaskResult
from puna.inference.language_model import LanguageModel, load
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.model.weights import write_model
from puna.tokenizer.tokenizer import Tokenizer

NAMES = list(shipped_tasks())
LIMIT = 6


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TQDM_DISABLE", "DISABLE_MULTIPROC"):
        monkeypatch.setenv(name, "1")


def make_folder(path: Path, *, more_rows: int = 0, always_ends: bool = False) -> None:
    """A random model of 128 tokens of context, fewer than some of the documents have, that
    transformers opens.

    more_rows: of the model, which no token has; in the softmax, if never the likeliest.
    always_ends: the likeliest token is always the end token.
    """
    words = "took the lamp rope to kitchen garden def return 12+7=19 bak dor fim users x y ( ) :"
    tokenizer = Tokenizer.train([f"{words} {number}\n" for number in range(400)], 320)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + more_rows,
        width=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        context_length=128,
        tie_embeddings=False,
    )
    model = build_transformer(config).eval()
    init_weights(model, 1)
    for weight in model.parameters():
        weight.data *= 3
    rows = model.output_weight.data
    rows[tokenizer.vocab_size :] = 0
    if always_ends:
        # one number of the hidden state is large everywhere, and counts for that token alone
        model.embed_tokens.weight.data[:, 0] = 5
        rows[:, 0] = 0
        rows[tokenizer.eos_id, 0] = 5
    path.mkdir()
    tokenizer.save(path)
    write_model(path, model, bos_id=tokenizer.bos_id, eos_ids=tuple(tokenizer.end_ids))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    path = tmp_path_factory.mktemp("harness") / "model"
    make_folder(path, more_rows=13)
    return path


@pytest.fixture(scope="module")
def llama(folder: Path) -> LanguageModel:
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("text")
    for number in range(3):
        (path / f"{number}.txt").write_text(f"the lamp {number} über 🦙\n" * (1 + 30 * number))
    return [str(path)]


@pytest.fixture(scope="module")
def answers(folder: Path, llama: LanguageModel, text: list[str]) -> dict[str, Mapping[str, Any]]:
    """What the harness makes of Puna's model and of its own, of all tasks at once."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from puna.eval.harness_model import HarnessModel

    metadata = {"text": text}
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
    models = {
        "hf": HFLM(pretrained=str(folder), device="cpu", batch_size=4, dtype="float32"),
        "puna": HarnessModel(llama),
    }
    return {
        name: simple_evaluate(
            model=model, tasks=NAMES, limit=LIMIT, task_manager=manager, bootstrap_iters=0
        )
        for name, model in models.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_the_harness_own_model(
    name: str, answers: dict[str, Mapping[str, Any]]
) -> None:
    of_puna, of_hf = (
        {result.task: result for result in task_results(answers[model])}[name]
        for model in ("puna", "hf")
    )
    assert set(of_puna.metrics) == set(of_hf.metrics)
    for metric, found in of_puna.metrics.items():
        assert found.value == pytest.approx(of_hf.metrics[metric].value, abs=1e-4), metric
        assert found.n == of_hf.metrics[metric].n


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_that_of_the_harness_own_model(
    name: str, answers: dict[str, Mapping[str, Any]]
) -> None:
    """Log-likelihoods, if they are the greedy ones, and texts letter by letter."""
    of_puna, of_hf = (
        [one["resps"] for one in answers[model]["samples"][name]] for model in ("puna", "hf")
    )
    assert len(of_puna) == (3 if name == "puna_bits_per_byte" else LIMIT)
    for mine, theirs in zip(of_puna, of_hf, strict=True):
        for (one,), (other,) in zip(mine, theirs, strict=True):
            if isinstance(one, str):
                assert one == other
            elif isinstance(one, float):
                assert one == pytest.approx(other, abs=1e-3)
            else:
                assert one[0] == pytest.approx(other[0], abs=1e-3)
                assert one[1] == other[1]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "puna_bits_per_byte"])
def test_native_figures_are_the_same(
    name: str, llama: LanguageModel, answers: dict[str, Mapping[str, Any]]
) -> None:
    (task,) = choose_tasks([name])
    native = run_task(llama, task, task.documents(None, (), LIMIT))
    (found,) = [one for one in task_results(answers["puna"]) if one.task == name]
    assert (found.version, found.seed) == (native.version, native.seed) == ("1.0", 0)
    for metric, figure in found.metrics.items():
        assert figure.value == pytest.approx(native.metrics[metric].value, abs=1e-9)
        assert (figure.n, figure.stderr) == (
            native.metrics[metric].n,
            pytest.approx(native.metrics[metric].stderr),
        )


def test_a_native_text_has_one_begin_token(
    llama: LanguageModel, text: list[str], answers: dict[str, Mapping[str, Any]]
) -> None:
    """The harness's own model lets it follow itself, so the figures differ, if not by much."""
    (task,) = choose_tasks(["puna_bits_per_byte"])
    native = run_task(llama, task, task.documents(None, text, None)).metrics["bits_per_byte"]
    (found,) = [one for one in task_results(answers["puna"]) if one.task == task.name]
    assert found.metrics["bits_per_byte"].value != native.value
    assert found.metrics["bits_per_byte"].value == pytest.approx(native.value, rel=0.2)
    assert native.n == 3


def test_a_run_counts_the_prompts_that_are_cut(llama: LanguageModel, text: list[str]) -> None:
    seen: list[str] = []

    def progress(work: str) -> Any:
        from contextlib import nullcontext

        return nullcontext(lambda done, total: seen.append(f"{work} {done} of {total}"))

    tasks = load_tasks(["puna_copy", "puna_bits_per_byte"], seed=4, text=text)
    found = run_harness(llama, tasks, limit=3, progress=progress)
    assert found.cut >= 1
    assert {result.task: result.seed for result in found.results} == {
        "puna_copy": 4,
        "puna_bits_per_byte": None,
    }
    assert "continuations 3 of 3" in seen
    assert any(line.startswith("texts ") for line in seen)


def test_chats_are_laid_out_as_the_harness_own_model_does(
    folder: Path, llama: LanguageModel
) -> None:
    from lm_eval.models.huggingface import HFLM

    from puna.eval.harness_model import HarnessModel

    ours, theirs = HarnessModel(llama), HFLM(pretrained=str(folder), device="cpu")
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "the lamp"},
        {"role": "assistant", "content": "to the kitchen"},
    ]
    for messages, prompts in ((chat[:2], True), (chat, True), (chat, False)):
        text = ours.apply_chat_template(messages, prompts)
        assert text == theirs.apply_chat_template(messages, prompts)
        assert ours.tok_encode(text) == theirs.tok_encode(text)
    assert ours.chat_template(True) == theirs.tokenizer.chat_template
    for model in (ours, theirs):
        assert (model.eot_token_id, model.prefix_token_id, model.max_length) == (
            llama.tokenizer.eos_id,
            llama.tokenizer.bos_id,
            128,
        )
    for words in ("", "a <|eot_id|> b", "<|begin_of_text|>a"):
        assert ours.tok_encode(words) == theirs.tok_encode(words)
        assert ours.tok_encode(words, False) == theirs.tok_encode(words, False)


@pytest.mark.parametrize(("chat", "shots"), [(True, None), (False, 2), (True, 2)])
def test_chats_and_examples_are_scored(
    chat: bool, shots: int | None, folder: Path, llama: LanguageModel
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tasks = load_tasks(["puna_last_word"])
    ours = run_harness(llama, tasks, limit=3, chat_template=chat, num_fewshot=shots).results
    answer = simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu"),
        tasks=load_tasks(["puna_last_word"]).loaded,
        limit=3,
        apply_chat_template=chat,
        num_fewshot=shots,
        task_manager=tasks.manager,
    )
    (one,), (other,) = ours, task_results(answer)
    assert one.metrics["bits_per_byte"].value == pytest.approx(
        other.metrics["bits_per_byte"].value, abs=1e-4
    )


@pytest.mark.parametrize("always_ends", [False, True])
def test_a_server_gives_the_same(always_ends: bool, tmp_path: Path) -> None:
    """`local-completions` against `puna serve`. It asks for one token more than it scores, and
    drops the last of the list: where that was an end token, which was not listed, it dropped one
    of those to be scored.
    """
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    pytest.importorskip("tenacity", reason="needs lm-eval[api]")
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    path = tmp_path / "tiny"
    make_folder(path, always_ends=always_ends)
    names = ["puna_last_word", "puna_sums", "puna_last_word_choice", "puna_python_syntax"]
    tasks = load_tasks(names)
    ours = run_harness(load(path, "cpu"), tasks, limit=4).results
    with served(path) as server:
        client = LocalCompletionsAPI(
            base_url=f"http://127.0.0.1:{server.port}/v1/completions",
            model="tiny",
            tokenizer_backend="huggingface",
            tokenizer=str(path),
            add_bos_token=True,
            max_length=129,
        )
        answer = simple_evaluate(
            model=client, tasks=load_tasks(names).loaded, limit=4, task_manager=tasks.manager
        )
    for one, other in zip(ours, task_results(answer), strict=True):
        for metric, found in one.metrics.items():
            assert found.value == pytest.approx(other.metrics[metric].value, abs=1e-4), metric


@pytest.mark.parametrize(
    ("told", "options"),
    [
        ({}, {"stop": (), "max_tokens": 256, "temperature": 0.0}),
        (
            {"until": "\n", "max_new_tokens": 9, "do_sample": False, "temperature": 0.7},
            {"stop": ("\n",), "max_tokens": 9, "temperature": 0.0},
        ),
        (
            {"until": ["a", ""], "max_gen_toks": 3, "do_sample": True, "top_p": 0.9},
            {"stop": ("a",), "max_tokens": 3, "top_p": 0.9},
        ),
        ({"temperature": 0.5}, {"stop": (), "max_tokens": 256, "temperature": 0.5}),
    ],
)
def test_options_of_generation(told: dict[str, Any], options: dict[str, Any]) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    from puna.eval.harness_model import generation_options

    assert generation_options(told) == options


def test_an_option_that_stands_for_none() -> None:
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    from puna.eval.harness_model import generation_options

    with pytest.raises(ConfigError, match=said("num_beams ... choose from until")):
        generation_options({"num_beams": 4})


def test_tasks_that_cannot_be_loaded(tmp_path: Path) -> None:
    """An unknown name, a text that is missing or not asked for, a data set that is nowhere."""
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    with pytest.raises(ConfigError, match=said("no task 'puna_sumz' ... puna_sums")):
        load_tasks(["puna_sumz"])
    with pytest.raises(ConfigError, match=said("none is given ... --text")):
        load_tasks(["puna_bits_per_byte"])
    with pytest.raises(ConfigError, match=said("puna_sums ... leave --text out")):
        load_tasks(["puna_sums"], text=["a"])
    with pytest.raises(DataError, match="gone"):
        load_tasks(["puna_bits_per_byte"], text=[str(tmp_path / "gone")])
    file = tmp_path / "own.yaml"
    file.write_text("task: own\ndataset_path: nowhere/at_all\ntest_split: test\n")
    with pytest.raises(DataError, match=said("own.yaml cannot be loaded")):
        load_tasks([str(file)])


def test_a_task_of_ones_own(llama: LanguageModel, tmp_path: Path) -> None:
    """The path of its YAML file, with data beside it, and a figure that is no mean."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"a": "the lamp", "b": " to"}\n' * 3)
    file = tmp_path / "own.yaml"
    metric = "metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]"
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {rows}}}\ntest_split: train"
    asked = "output_type: loglikelihood\ndoc_to_text: a\ndoc_to_target: b"
    file.write_text(f"task: own\n{data}\n{asked}\n{metric}\n")
    (result,) = run_harness(llama, load_tasks([str(file)])).results
    pair = encode_pair(llama.tokenizer, "the lamp", " to")
    (score,) = score_continuations(llama, [pair])
    found = result.metrics["perplexity"]
    assert found.value == pytest.approx(math.exp(-score.logprob))
    assert (result.task, found.n, found.low) == ("own", 3, None)


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ConfigError, match=said("not installed ... puna[eval] ... --task")):
        load_tasks(["puna_sums"])


def test_figures_that_only_the_harness_knows() -> None:
    """A figure that is no mean keeps the harness's standard error; a filter goes with the name."""
    answer = {
        "results": {
            "some": {"alias": "some", "f1,none": 0.5, "f1_stderr,none": 0.1, "acc,strict": 0.25},
            "group": {"acc,none": 0.3, "acc_stderr,none": "N/A"},
        },
        "samples": {
            "some": [
                {"filter": "none", "f1": (1, 0)},
                *({"filter": "strict", "acc": right} for right in (1, 0, 0, 0)),
            ]
        },
        "versions": {"some": 2.0},
    }
    some, group = task_results(answer)
    assert (some.metrics["f1"].value, some.metrics["f1"].stderr) == (0.5, 0.1)
    assert some.metrics["f1"].low is None
    assert some.metrics["acc,strict"].n == 4
    assert some.metrics["acc,strict"].low == 0.0
    assert some.version == "2.0"
    assert group == TaskResult("group", group.metrics)
    assert (group.metrics["acc"].value, group.metrics["acc"].stderr) == (0.3, None)
