"""`puna generate` and `puna chat`: text on standard output, the same for the same seed."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.inference.language_model import LanguageModel

Puna = Callable[..., Any]

OPTIONS = ("--max-tokens", 12, "--seed", 3, "--device", "cpu")


def test_the_prompt_and_its_continuation(
    puna: Puna, tiny_run: Path, tiny_llama: LanguageModel
) -> None:
    result = puna("generate", tiny_run / "model", "the llama ", *OPTIONS)
    expected = tiny_llama.generate("the llama ", max_tokens=12, seed=3, temperature=0.8, top_p=0.95)
    assert (result.code, result.out, result.err) == (0, f"the llama {expected}\n", "")


def test_generating_imports_nothing_that_takes_long(tiny_run: Path) -> None:
    """With sympy, which one way to allocate imports, the first token came 0.6 s later."""
    script = (
        "import sys\nfrom puna.cli.main import main\ntry:\n    main()\nfinally:\n"
        "    print(*sorted({'sympy', 'scipy', 'pyarrow', 'torch._dynamo'} & {*sys.modules}))"
    )
    command = [sys.executable, "-c", script, "generate", str(tiny_run / "model"), "old "]
    done = subprocess.run(
        [*command, "--max-tokens", "1", "--seed", "3", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""


def test_several_are_numbered(puna: Puna, tiny_run: Path) -> None:
    alone = [
        puna(
            "generate", tiny_run / "model", "old ", *OPTIONS[:2], "--seed", seed, "--device", "cpu"
        ).out
        for seed in (3, 4)
    ]
    result = puna("generate", tiny_run / "model", "old ", "-n", 2, *OPTIONS)
    assert result.out == f"--- 1 of 2\n{alone[0]}--- 2 of 2\n{alone[1]}"


def test_greedy_needs_no_seed_and_stop_texts_stop(puna: Puna, tiny_run: Path) -> None:
    greedy = [
        puna("generate", tiny_run / "model", "old ", "--temperature", 0, "--max-tokens", 30).out
        for _ in range(2)
    ]
    assert greedy[0] == greedy[1]
    text = greedy[0].removeprefix("old ")
    stop = text[9:12]
    stopped = puna(
        "generate",
        tiny_run / "model",
        "old ",
        "--temperature",
        0,
        "--max-tokens",
        30,
        "--stop",
        stop,
    ).out
    assert stopped == f"old {text.partition(stop)[0]}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", -1], "temperature ... -1.0 ... greater than or equal to 0"),
        (["--seed", 10**20], "Input should be less than"),
        (["--max-tokens", 0], "max_tokens ... 0"),
        (["--device", "cuda:99"], "'cuda:99' cannot be used"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: list[object], message: str, puna: Puna, tiny_run: Path
) -> None:
    result = puna("generate", tiny_run / "model", "old", *arguments)
    assert result.code == 1
    assert re.search(said(message), result.err)
    assert result.err.count("\n") == 1


def test_what_is_no_model_or_too_long(puna: Puna, tiny_run: Path, tmp_path: Path) -> None:
    no_model, too_long = (
        puna("generate", *arguments).err
        for arguments in ((tmp_path, "old"), (tiny_run / "model", "東京" * 90))
    )
    assert re.search(said("no model folder ... config.json"), no_model)
    assert re.search(said("context ... 96"), too_long)


def test_a_conversation_from_standard_input(
    puna: Puna, tiny_run: Path, tiny_llama: LanguageModel
) -> None:
    from puna.tokenizer.chat_template import Message

    options = {"max_tokens": 8, "seed": 3, "temperature": 0.7, "top_p": 0.95}
    first = "".join(tiny_llama.chat([Message("user", "old")], **options))
    both = [Message("user", "old"), Message("assistant", first), Message("user", "far")]
    second = "".join(tiny_llama.chat(both, **options))
    arguments = ("chat", tiny_run / "model", "--max-tokens", 8, "--seed", 3, "--device", "cpu")
    result = puna(*arguments, stdin="old\nfar\n\nnever read\n")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"you: {first}\nyou: {second}\nyou: "
    forgotten = puna(*arguments, stdin="old\n/new\nold\n")
    assert forgotten.out == f"you: {first}\nyou: you: {first}\nyou: "
    told = puna(*arguments, "--system", "river", stdin="old\n")
    turns = [Message("system", "river"), Message("user", "old")]
    assert told.out == f"you: {''.join(tiny_llama.chat(turns, **options))}\nyou: "
