"""What a recipe may say, and what is said back."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from said import said

from puna.errors import ConfigError
from puna.training.recipe import Recipe, read_recipe
from puna.training.stored_recipe import differences, dump_recipe, recipe_hash
from puna.workflow.training_run import resolve_recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.context_length=97"],
            "train.context_length 97 exceeds model.context_length 96; raise the latter",
        ),
        (
            ["optimizer.warmup_steps=40"],
            "optimizer.warmup_steps 40 ... train.steps 40 ... lower it",
        ),
        (["train.steps=4"], "optimizer.warmup_steps 4 ... train.steps 4"),
        (
            ["train.micro_batch_size=3"],
            "train.batch_size 4 ... multiple ... train.micro_batch_size 3",
        ),
        (
            ["train.micro_batch_size=8"],
            "train.batch_size 4 ... multiple ... train.micro_batch_size 8",
        ),
        (["train.stepz=3"], "train.stepz ... train.steps?"),
        (
            ["train.learning_rate=3"],
            "train.learning_rate ... optimizer.learning_rate?",
        ),
        (["model.layers=3"], "model.layers ... model.num_layers?"),
        (["train.steps=1e3"], "train.steps = 1000.0"),
        (
            ["optimizer.name=adam"],
            "optimizer.name: there is no 'adam'; choose one of adamw, muon, sgd",
        ),
        (
            ["optimizer.name=sgd", "optimizer.momentum=1.0"],
            "optimizer.momentum = 1.0 ... less than 1",
        ),
        (
            ["optimizer.momentum=0.9"],
            "optimizer: momentum = 0.9 means nothing with name = adamw: leave it",
        ),
        (
            ["model.feed_forward=convolution", "train.mask_documents=true"],
            "train.mask_documents cannot stop model.feed_forward convolution, which sees the pos",
        ),
        (
            ["model.feed_forward=relu", "model.feed_forward_kernel=3"],
            "model: feed_forward_kernel = 3 means nothing with feed_forward = relu: leave it out",
        ),
        (
            ["optimizer.schedule=step"],
            "optimizer.schedule: there is no 'step'; choose one of cosine, linear, wsd, constant",
        ),
        (
            ["optimizer.muon_learning_rate=0.5"],
            "optimizer: muon_learning_rate = 0.5 means nothing with name = adamw: leave it",
        ),
        (
            ["optimizer.schedule=constant", "optimizer.final_factor=0.5"],
            "optimizer: final_factor = 0.5 means nothing with schedule = constant: le",
        ),
        (
            ["model.norm=none", "model.norm_eps=1e-3"],
            "model: norm_eps = 0.001 means nothing with norm = none: leave it out",
        ),
        (
            ["model.tie_embeddings=true", "optimizer.head_learning_rate=0.1"],
            "optimizer.head_learning_rate 0.1 ... model.tie_embeddings ... leave it out",
        ),
        (["optimizer.vector_learning_rate=0"], "optimizer.vector_learning_rate = 0"),
        (
            ["optimizer.cautious_decay=true"],
            "optimizer: cautious_decay = True means nothing with name = adamw: leave it",
        ),
        (
            ["optimizer.schedule=linear", "optimizer.decay_share=0.5"],
            "optimizer: decay_share = 0.5 means nothing with schedule = linear: leave it",
        ),
        (["optimizer.schedule=wsd", "optimizer.decay_share=0"], "optimizer.decay_share = 0"),
        (["optimizer.name=muon", "optimizer.muon_momentum=1"], "optimizer.muon_momentum = 1"),
        (["optimizer.name=muon", "optimizer.muon_iterations=0"], "optimizer.muon_iterations = 0"),
        (["optimizer.name=muon", "optimizer.muon_coefficients=x"], "muon_coefficients = 'x'"),
        (["optimizer.final_factor=1.5"], "optimizer.final_factor = 1.5"),
        (["optimizer.learning_rate=0"], "optimizer.learning_rate = 0"),
        (["data.mixture=[]"], "data.mixture"),
        (
            ["data.mixture=[{path: a, wieght: 2}]"],
            "data.mixture.0.wieght ... data.mixture.weight?",
        ),
        (["model.num_heads=3"], "width 32 ... multiple ... num_heads 3"),
        ([f"seed={2**63}"], f"seed ... {2**63} ... less than"),
        (["train=3"], "train = 3"),
    ],
)
def test_a_broken_rule_names_the_values(
    overrides: list[str], message: str, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_recipe(*overrides)
    assert re.search(said(message), str(caught.value))


def test_derived_values(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe()
    assert (recipe.context_length, recipe.micro_batch_size, recipe.tokens_per_step) == (32, 2, 128)
    recipe = tiny_recipe("train.context_length=null", "train.micro_batch_size=null")
    assert (recipe.context_length, recipe.micro_batch_size, recipe.tokens_per_step) == (96, 4, 384)


def test_the_models_vocabulary_follows_the_tokenizers(tiny_recipe: Callable[..., Recipe]) -> None:
    assert tiny_recipe().model.vocab_size == 300
    assert tiny_recipe("tokenizer.vocab_size=310").model.vocab_size == 310
    assert tiny_recipe("model.vocab_size=512").model.vocab_size == 512


def test_the_run_is_named_after_the_recipe(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    path = tmp_path / "llama.yaml"
    path.write_text(dump_recipe(tiny_recipe()).replace("run:", "# run:"), encoding="utf-8")
    assert read_recipe(path, []).run == "runs/llama"
    assert read_recipe(path, ["run=elsewhere"]).run == "elsewhere"


@pytest.mark.parametrize(
    "overrides",
    [[], ["optimizer.learning_rate=1e-7", "run='1e5'"], ["model.preset=puna-1m", "train.steps=9"]],
)
def test_what_is_stored_reads_as_the_same_recipe(
    overrides: list[str], tmp_path: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(*overrides)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert read_recipe(path, []) == recipe
    assert read_recipe(path, []).fingerprint() == recipe.fingerprint()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.muon_momentum=0.9"], "optimizer: muon_momentum = 0.9 ... name = adamw: leave"),
        (["optimizer.muon_learning_rate=0.1"], "optimizer: muon_learning_rate = 0.1 ... (muon)"),
        (["optimizer.name=sgd", "optimizer.betas=[0.8, 0.9]"], "optimizer: betas ... name = sgd"),
        (["optimizer.decay_share=0.5"], "optimizer: decay_share = 0.5 means nothing"),
        (["model.rope_scaling.mscale=2"], "model.rope_scaling: mscale = 2 ... kind = llama3"),
    ],
)
def test_an_override_of_a_stored_recipe_that_its_choices_ignore_is_an_error(
    overrides: list[str], message: str, tmp_path: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    """A stored recipe has every key, ignored ones too, and an override of one was accepted for
    another.
    """
    recipe = tiny_recipe("model.rope_scaling.kind=llama3", "model.rope_scaling.original_context=16")
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    with pytest.raises(ConfigError, match=said(message)) as by_file:
        read_recipe(path, overrides)
    assert str(by_file.value).startswith(f"{path}: ")
    with pytest.raises(ConfigError, match=said(message)):
        resolve_recipe(recipe, overrides)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["optimizer.muon_learning_rate=null"], "muon_learning_rate", 0.02),
        (["optimizer.muon_learning_rate=0.02"], "muon_learning_rate", 0.02),
        (["optimizer.name=muon", "optimizer.muon_momentum=0.9"], "muon_momentum", 0.9),
        (["optimizer.name=sgd"], "betas", (0.9, 0.95)),
        (["optimizer.learning_rate=0.1"], "learning_rate", 0.1),
    ],
)
def test_other_overrides_of_a_stored_recipe_are_taken(
    overrides: list[str],
    key: str,
    value: object,
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe()), encoding="utf-8")
    assert getattr(read_recipe(path, overrides).optimizer, key) == value


def test_the_hash_is_of_all_but_the_folder(tiny_recipe: Callable[..., Recipe]) -> None:
    assert recipe_hash(tiny_recipe("run=a")) == recipe_hash(tiny_recipe("run=b"))
    changes = [
        "seed=8",
        "train.steps=41",
        "optimizer.learning_rate=2e-2",
        "model.num_layers=1",
        "data.validation_fraction=0.2",
    ]
    assert (
        len(
            {
                recipe_hash(tiny_recipe(*change))
                for change in [[], *([change] for change in changes)]
            }
        )
        == 6
    )


def test_differences_name_the_keys_with_both_values(tiny_recipe: Callable[..., Recipe]) -> None:
    other = tiny_recipe(
        "run=elsewhere",
        "train.steps=41",
        "optimizer.betas=[0.8, 0.9]",
        "model.rope_scaling={factor: 2.0}",
    )
    found = differences(tiny_recipe(), other)
    assert {key.split(".")[1] for key in found} == {"steps", "betas", "rope_scaling"}
    assert found["train.steps"] == (40, 41)
    assert differences(tiny_recipe(), tiny_recipe("run=elsewhere")) == {}


# warm-up as a share of the steps


def test_a_warm_up_ratio_wins_over_warm_up_steps(tiny_recipe: Callable[..., Recipe]) -> None:
    """10% of 40 steps, and of 400: the rate is at its top after 4, and after 40."""
    for steps, warmup in ((40, 4), (400, 40)):
        optimizer = tiny_recipe(
            f"train.steps={steps}", "optimizer.warmup_ratio=0.1", "optimizer.warmup_steps=30"
        ).optimizer
        assert optimizer.warmup(steps) == warmup
        factors = [optimizer.factor(step, steps) for step in range(warmup + 2)]
        assert factors[:warmup] == [(step + 1) / warmup for step in range(warmup)]
        assert factors[warmup] == 1.0 > factors[warmup + 1]
    assert tiny_recipe("optimizer.warmup_steps=30").optimizer.warmup(40) == 30


def test_a_warm_up_ratio_of_zero_is_none_and_not_the_absence_of_one(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    optimizer = tiny_recipe("optimizer.warmup_ratio=0").optimizer
    assert optimizer.warmup(40) == 0
    assert optimizer.factor(0, 40) == 1.0


def test_a_warm_up_ratio_changes_no_fingerprint_of_recipes_without_it(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    """So runs of before there was one are resumed."""
    without = tiny_recipe()
    assert "warmup_ratio" not in dump_recipe(without)
    assert recipe_hash(tiny_recipe("optimizer.warmup_ratio=null")) == recipe_hash(without)
    given = tiny_recipe("optimizer.warmup_ratio=0.1")
    assert recipe_hash(given) != recipe_hash(without)
    assert "warmup_ratio: 0.1" in dump_recipe(given)


@pytest.mark.parametrize(
    ("choice", "option", "other"),
    [
        ("name=muon", "muon_momentum=0.95", "muon_momentum=0.9"),
        ("name=muon", "muon_coefficients=jordan", "muon_coefficients=polar_express"),
        ("name=muon", "muon_iterations=5", "muon_iterations=3"),
        ("name=muon", "cautious_decay=false", "cautious_decay=true"),
        ("name=muon", "embedding_learning_rate=null", "embedding_learning_rate=0.1"),
        ("name=adamw", "vector_learning_rate=null", "vector_learning_rate=0.1"),
        ("schedule=wsd", "decay_share=0.2", "decay_share=0.5"),
    ],
)
def test_later_options_change_no_fingerprint_of_recipes_without_them(
    choice: str, option: str, other: str, tiny_recipe: Callable[..., Recipe]
) -> None:
    without = tiny_recipe(f"optimizer.{choice}")
    assert f"{option.partition('=')[0]}:" not in dump_recipe(without)
    default = tiny_recipe(f"optimizer.{choice}", f"optimizer.{option}")
    assert recipe_hash(default) == recipe_hash(without)
    changed = tiny_recipe(f"optimizer.{choice}", f"optimizer.{other}")
    assert recipe_hash(changed) != recipe_hash(without)
    assert Recipe.model_validate(changed.model_dump()) == changed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.warmup_ratio=1", "warmup_ratio ... less than 1"),
        ("optimizer.warmup_ratio=-0.1", "warmup_ratio ... greater than or equal to 0"),
        (
            "optimizer.warmup_ratio=0.99",
            "optimizer.warmup_ratio 0.99 ... nothing of train.steps 40 ... lower it",
        ),
    ],
)
def test_a_warm_up_that_leaves_nothing_is_rejected(
    override: str, message: str, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(ConfigError, match=said(message)):
        tiny_recipe(override)
