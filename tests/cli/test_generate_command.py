"""`puna generate` and `puna chat`: text on standard output, the same for the same seed."""

import gc
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from damaged_tier import damage_fastest_tier
from said import said

from puna.cli.serve import _announce
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


@pytest.fixture
def own_folder(tiny_run: Path, tmp_path: Path) -> Path:
    """A model with a chat template and default options of its own."""
    folder = tmp_path / "own"
    shutil.copytree(tiny_run / "model", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = (
        "{% for m in messages %}{{ raise_exception('no system') if m.role == 'system' }}"
        "{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "generation_config.json").write_text(
        '{"temperature": 0.3, "max_new_tokens": 8}', encoding="utf-8"
    )
    return folder


def test_a_models_own_template_and_defaults(
    puna: Puna, own_folder: Path, tiny_llama: LanguageModel
) -> None:
    """The publisher's temperature takes the place of the command's own 0.95 for top_p as well."""

    def expected(text: str, **options: Any) -> str:
        prompt = tiny_llama.tokenizer.encode(text)
        return "".join(text for _, text in tiny_llama.stream(prompt, seed=3, **options))

    laid_out = "user: old\n"
    reply = expected(laid_out, temperature=0.3, max_tokens=8)
    arguments = (own_folder, "--seed", 3, "--device", "cpu")
    result = puna("chat", *arguments, stdin="old\n")
    assert (result.code, result.out) == (0, f"you: {reply}\nyou: ")
    assert result.err == (
        "from generation_config.json: temperature 0.3, max_tokens 8\n"
        "layout of the chat: the model's own chat template\n"
    )
    told = puna("chat", *arguments, "--temperature", 0, "--max-tokens", 4, stdin="old\n")
    assert told.out == f"you: {expected(laid_out, temperature=0, max_tokens=4)}\nyou: "
    assert "from generation_config" not in told.err
    unread = puna("chat", *arguments, "--generation-config", "none", stdin="old\n")
    default = expected(laid_out, temperature=0.7, top_p=0.95, max_tokens=512)
    assert unread.out == f"you: {default}\nyou: "
    generated = puna("generate", own_folder, "old", "--template", "own", *arguments[1:])
    assert generated.out == f"{reply}\n"
    plain = puna("generate", own_folder, "user: old\n", *arguments[1:])
    assert plain.err == "from generation_config.json: temperature 0.3, max_tokens 8\n"


def test_a_layout_can_be_chosen(
    puna: Puna, own_folder: Path, tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    from puna.tokenizer.chat_template import Message

    options = {"max_tokens": 4, "temperature": 0}
    arguments = (own_folder, "--max-tokens", 4, "--temperature", 0, "--device", "cpu")
    reply = "".join(tiny_llama.chat([Message("user", "old")], **options))
    result = puna("chat", *arguments, "--template", "llama3", stdin="old\n")
    assert result.out == f"you: {reply}\nyou: "
    assert result.err == "layout of the chat: Llama 3's\n"
    generated = puna("generate", own_folder, "old", "--template", "llama3", *arguments[1:])
    assert generated.out == f"{reply}\n"
    none = puna("chat", *arguments, "--template", "none", stdin="old\n")
    plain = tiny_llama.generate("old\n", **options)
    assert none.out == f"you: {plain}\nyou: "
    assert none.err == "layout of the chat: none, the texts of the messages line by line\n"
    file = tmp_path / "x.jinja"
    file.write_text("{{ bos_token }}{{ messages[0].content }}", encoding="utf-8")
    told = puna("chat", *arguments, "--template", file, stdin="old\n")
    assert told.out == f"you: {tiny_llama.generate('old', **options)}\nyou: "


def test_ids_are_continued_as_they_are(
    puna: Puna, tiny_run: Path, tiny_llama: LanguageModel
) -> None:
    tokenizer = tiny_llama.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode("old ")]
    arguments = (tiny_run / "model", "--temperature", 0, "--max-tokens", 6)
    for written in (" ".join(map(str, ids)), ", ".join(map(str, ids))):
        result = puna("generate", *arguments, "--ids", written)
        continued = tiny_llama.generate("old ", temperature=0, max_tokens=6)
        assert result.out == f"<|begin_of_text|>old {continued}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither was given ... give one"),
        (["old", "--ids", "1"], "both was given ... give one"),
        (["--ids", "1", "--template", "own"], "--ids are no text"),
        (["--ids", "1 x"], "'x' is no id ... whole numbers"),
        (["--ids", " "], "is no id"),
        (["--ids", "1 99999999999999999999"], "is no id"),
        (["--ids", "1 999999999"], "not in this vocabulary"),
        (["old", "--template", "lama3"], "'lama3' ... llama3, chatml, alpaca, none"),
    ],
)
def test_prompts_that_are_none(
    puna: Puna, tiny_run: Path, arguments: list[str], message: str
) -> None:
    result = puna("generate", tiny_run / "model", *arguments)
    assert result.code == 1
    assert re.search(said(message), result.err)
    assert (result.out, result.err.count("\n")) == ("", 1)


def test_a_chat_that_the_template_rejects_is_one_line(puna: Puna, own_folder: Path) -> None:
    result = puna("chat", own_folder, "--system", "x", stdin="old\n")
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert re.search(said("own chat template ... rejects ... no system"), last)


def test_after_a_start_garbage_is_collected_again(
    puna: Puna, tiny_run: Path, tmp_path: Path
) -> None:
    for folder, code in ((tiny_run / "model", 0), (tmp_path, 1)):
        assert puna("generate", folder, "old ", "--max-tokens", 1, "--device", "cpu").code == code
        assert gc.isenabled()


@pytest.mark.parametrize("isa", ["auto", "torch"])
def test_a_damaged_tier_that_is_passed_over_is_said_once(
    isa: str,
    puna: Puna,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By generate, chat and serve on standard error, where they chose the tier themselves."""
    tiers = damage_fastest_tier(tmp_path, monkeypatch)
    model, times = tiny_run / "model", int(isa == "auto")
    for arguments, stdin in (
        (("generate", model, "old ", *OPTIONS), ""),
        (("chat", model, *OPTIONS), "hello\nmore\n\n"),
    ):
        result = puna(*arguments, "--isa", isa, stdin=stdin)
        assert result.code == 0, result.err
        assert "cannot be loaded" not in result.out
        assert len(re.findall(said(f"puna_{tiers[-1]}.so cannot be loaded"), result.err)) == times
    text: Any = SimpleNamespace(
        layout=SimpleNamespace(is_foreign=False), defaults={}, tokenizer=SimpleNamespace(loss=None)
    )
    loaded = SimpleNamespace(adapters=(), device="cpu", dtype="float32", cache_tokens=1)
    served = SimpleNamespace(loaded=loaded, text=text)
    client: Any = SimpleNamespace(models={"one": served, "two": served})
    address: Any = "http://127.0.0.1:8000"
    _announce(address, client, needs_key=False, isa=isa)
    assert capsys.readouterr().err.count("cannot be loaded") == times
