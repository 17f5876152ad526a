"""Text in, text out: ends, stop texts, streams, conversations; on each executor."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from both_executors import EXECUTORS, weights_for

from puna.errors import ConfigError, ModelFolderError, RequestError, TokenizerError
from puna.inference.engine_config import EngineConfig
from puna.inference.language_model import LanguageModel, load
from puna.inference.request import Constraint
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.tokenizer.chat_template import Message, encode_chat
from puna.tokenizer.tokenizer import Tokenizer

PROMPT = "the llama reads "


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    """The name of what runs the models of a test."""
    return str(request.param)


@pytest.fixture(scope="module")
def tiny_llama(executor: str, tiny_run: Path) -> LanguageModel:
    """The finished run's model with its tokenizer."""
    options = EngineConfig(isa="torch" if executor == "torch" else "auto")
    return load(tiny_run / "model", "cpu", options=options)


@pytest.fixture(scope="module")
def random_llama(executor: str, tiny_llama: LanguageModel) -> LanguageModel:
    """Weights that nothing trained: every byte is about as likely, so most characters come in
    halves or are none at all.
    """
    model = build_transformer(tiny_llama.model.config).eval()
    init_weights(model, 0)
    return LanguageModel(weights_for(executor, model), tiny_llama.tokenizer)


def test_generation_is_the_decoded_ids(tiny_llama: LanguageModel) -> None:
    (completion,) = tiny_llama.complete(PROMPT, seed=5, max_tokens=30)
    assert completion.text == tiny_llama.tokenizer.decode(completion.ids, skip_special=True)
    assert tiny_llama.generate(PROMPT, seed=5, max_tokens=30) == completion.text
    assert (completion.finish, len(completion.ids)) == ("length", 30)
    assert tiny_llama.generate(PROMPT, seed=4, max_tokens=30) != completion.text


def test_the_prompt_opens_as_texts_did_in_training(tiny_llama: LanguageModel) -> None:
    tokenizer = tiny_llama.tokenizer
    assert tiny_llama.encode_prompt(PROMPT) == [tokenizer.bos_id, *tokenizer.encode(PROMPT)]
    assert tiny_llama.complete("", seed=0, max_tokens=3)[0].ids


def test_several_equal_the_single_ones(tiny_llama: LanguageModel) -> None:
    together = tiny_llama.complete(PROMPT, seed=20, n=3, max_tokens=25)
    assert together == [
        tiny_llama.complete(PROMPT, seed=20 + row, max_tokens=25)[0] for row in range(3)
    ]
    assert len({completion.text for completion in together}) == 3


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("model", ["tiny_llama", "random_llama"])
def test_streamed_pieces_join_to_the_whole(model: str, request: pytest.FixtureRequest) -> None:
    llama: LanguageModel = request.getfixturevalue(model)
    options = {"seed": 5, "n": 3, "max_tokens": 60, "stop": ["river", "東京 x"]}
    texts = ["", "", ""]
    for row, piece in llama.stream(llama.encode_prompt(PROMPT), **options):
        assert piece
        texts[row] += piece
    assert texts == [completion.text for completion in llama.complete(PROMPT, **options)]


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("model", ["tiny_llama", "random_llama"])
def test_never_half_a_character(model: str, request: pytest.FixtureRequest) -> None:
    """Pieces cut inside a character would show U+FFFD where the bytes, decoded at once, show the
    character.
    """
    llama: LanguageModel = request.getfixturevalue(model)
    completions = llama.complete(PROMPT, seed=0, n=20, max_tokens=50)
    raw = [
        llama.tokenizer.decode_bytes(completion.ids, skip_special=True)
        for completion in completions
    ]
    assert [completion.text for completion in completions] == [
        piece.decode("utf-8", errors="replace") for piece in raw
    ]
    tokens = [
        llama.tokenizer.decode_bytes([id_]) for completion in completions for id_ in completion.ids
    ]
    assert any(token[-1:] > b"\x7f" for token in tokens), (
        "some tokens end inside a character or after a wide one"
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_stop_text_across_tokens_ends_the_text_before_it(
    seed: int, tiny_llama: LanguageModel
) -> None:
    """From a real generation, a stop text that spans two of its tokens."""
    (free,) = tiny_llama.complete(PROMPT, seed=seed, max_tokens=40)
    pieces = [tiny_llama.tokenizer.decode([id_]) for id_ in free.ids]
    index = next(
        i
        for i in range(8, 39)
        if len(pieces[i]) > 1 and pieces[i + 1] and "�" not in pieces[i] + pieces[i + 1]
    )
    stop = pieces[index][-1] + pieces[index + 1]
    expected = free.text[: free.text.index(stop)]
    (stopped,) = tiny_llama.complete(PROMPT, seed=seed, max_tokens=40, stop=[stop, "never said"])
    assert (stopped.text, stopped.finish) == (expected, "stop")
    assert stopped.ids == free.ids[: len(stopped.ids)]
    assert len(stopped.ids) <= index + 2
    streamed = [
        text
        for _, text in tiny_llama.stream(
            tiny_llama.encode_prompt(PROMPT), seed=seed, max_tokens=40, stop=[stop]
        )
    ]
    assert "".join(streamed) == expected, "no part of the stop text is let out"


def test_what_only_began_like_a_stop_text_is_given_in_the_end(tiny_llama: LanguageModel) -> None:
    (free,) = tiny_llama.complete(PROMPT, seed=1, max_tokens=10)
    (held,) = tiny_llama.complete(PROMPT, seed=1, max_tokens=10, stop=[free.text[-3:] + "∎"])
    assert held == free


def test_a_stop_text_of_digits_is_a_text(tiny_llama: LanguageModel) -> None:
    assert (
        tiny_llama.complete(PROMPT, seed=1, max_tokens=5, stop=["1", "1e5", "nan"])[0].finish
        == "length"
    )


def test_an_end_token_ends_and_is_no_text(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (free,) = tiny_llama.complete(PROMPT, seed=1, max_tokens=20)
    end = free.ids[6]
    monkeypatch.setattr(Tokenizer, "end_ids", frozenset([end]))
    (ended,) = tiny_llama.complete(PROMPT, seed=1, max_tokens=20)
    length = free.ids.index(end)
    assert (ended.ids, ended.finish) == (free.ids[: length + 1], "stop")
    assert ended.text == tiny_llama.tokenizer.decode(free.ids[:length])


def test_a_vocabulary_smaller_than_the_models_is_never_left(
    executor: str, tiny_llama: LanguageModel
) -> None:
    """A small corpus gives fewer tokens than were asked for; the model keeps rows that no text
    belongs to.
    """
    config = tiny_llama.model.config.model_copy(update={"vocab_size": 4000})
    model = build_transformer(config).eval()
    init_weights(model, 0)
    llama = LanguageModel(weights_for(executor, model), tiny_llama.tokenizer)
    assert max(llama.complete("a", seed=0, max_tokens=60)[0].ids) < 300
    with pytest.raises(RequestError, match="ids outside 0 to 299"):
        llama.stream([350])


def test_a_vocabulary_larger_than_the_models_does_not_match(tiny_llama: LanguageModel) -> None:
    config = tiny_llama.model.config.model_copy(update={"vocab_size": 299})
    with pytest.raises(
        TokenizerError, match="the tokenizer has 300 entries but the model only 299"
    ):
        LanguageModel(build_transformer(config), tiny_llama.tokenizer)


def test_a_chat_is_laid_out_and_streamed(tiny_llama: LanguageModel) -> None:
    messages = [Message("system", "Old."), Message("user", "the llama?")]
    pieces = list(tiny_llama.chat(messages, seed=2, max_tokens=20))
    prompt = encode_chat(tiny_llama.tokenizer, messages, add_generation_prompt=True).ids
    assert "".join(pieces) == "".join(
        text for _, text in tiny_llama.stream(prompt, seed=2, max_tokens=20)
    )
    assert len(pieces) > 1


def test_streams_may_be_read_by_turns(tiny_llama: LanguageModel) -> None:
    prompts = [tiny_llama.encode_prompt(text) for text in ("the llama", "old pages", "river ")]
    alone = [
        "".join(text for _, text in tiny_llama.stream(prompt, seed=9, max_tokens=25))
        for prompt in prompts
    ]
    streams = [tiny_llama.stream(prompt, seed=9, max_tokens=25) for prompt in prompts]
    texts = ["", "", ""]
    while streams_left := [
        (index, stream) for index, stream in enumerate(streams) if stream is not None
    ]:
        for index, stream in streams_left:
            piece = next(stream, None)
            if piece is None:
                streams[index] = None  # type: ignore[call-overload]
            else:
                texts[index] += piece[1]
    assert texts == alone


def test_a_stream_that_is_left_or_never_read_costs_nothing_more(tiny_llama: LanguageModel) -> None:
    prompt = tiny_llama.encode_prompt(PROMPT)
    tiny_llama.stream(prompt, max_tokens=50)
    left = tiny_llama.stream(prompt, max_tokens=50, ignore_end=True)
    next(left)
    assert tiny_llama.engine.busy
    left.close()  # type: ignore[attr-defined]
    assert not tiny_llama.engine.busy
    assert tiny_llama.engine.pool.in_use == 0


def test_an_interruption_leaves_nothing_half_cached(
    executor: str, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C inside a step, after its blocks were planned and before they are written."""
    text = "old pages and stone light " * 3
    weights = weights_for(executor, tiny_llama.model)
    expected = LanguageModel(weights, tiny_llama.tokenizer).generate(
        text, temperature=0.0, max_tokens=12
    )
    llama = LanguageModel(weights, tiny_llama.tokenizer)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(llama.engine.executor, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llama.generate(text, temperature=0.0, max_tokens=12)
    monkeypatch.undo()
    assert not llama.engine.busy
    assert llama.generate(text, temperature=0.0, max_tokens=12) == expected


def test_scores_come_with_the_ids_that_they_are_of(tiny_llama: LanguageModel) -> None:
    (free,) = tiny_llama.complete(PROMPT, seed=4, max_tokens=20, logprobs=2, prompt_logprobs=0)
    assert [score.id for score in free.logprobs] == free.ids
    assert [score.id for score in free.prompt_logprobs] == tiny_llama.encode_prompt(PROMPT)[1:]
    assert all(
        len(score.top) == 2 and score.logprob <= score.top[0][1] <= 0 for score in free.logprobs
    )
    (stopped,) = tiny_llama.complete(
        PROMPT, seed=4, max_tokens=20, logprobs=0, stop=[free.text[3:6]]
    )
    assert [score.id for score in stopped.logprobs] == stopped.ids == free.ids[: len(stopped.ids)]


def test_output_that_must_match(tiny_llama: LanguageModel) -> None:
    constraint = Constraint(kind="regex", text="(llama|river) [0-9]{3}")
    for seed in range(5):
        (completion,) = tiny_llama.complete(PROMPT, seed=seed, constraint=constraint)
        assert re.fullmatch("(llama|river) [0-9]{3}", completion.text)
        assert completion.finish == "stop"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens = 0: Input should be greater than 0"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.1}, "top_p = 1.1"),
        ({"top_k": 0}, "top_k = 0"),
        ({"min_p": 2.0}, "min_p = 2.0"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 10**20}, f"seed = {10**20}: Input should be less than"),
        ({"n": 0}, "n = 0"),
        ({"stop": [""]}, "an empty stop text would end every generation at once"),
        ({"temprature": 1.0}, r"unknown key temprature \(did you mean temperature\?\)"),
    ],
)
def test_a_wrong_option_is_named(
    options: dict[str, object], message: str, tiny_llama: LanguageModel
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_llama.complete(PROMPT, **options)


def test_a_prompt_that_fills_the_context_is_rejected_with_numbers(
    tiny_llama: LanguageModel,
) -> None:
    with pytest.raises(
        RequestError, match=r"the prompt has \d+ tokens, but the model's context of 96"
    ):
        tiny_llama.generate("東京" * 100)


def test_loading(tiny_run: Path, tmp_path: Path) -> None:
    llama = load(str(tiny_run / "model"), "cpu", torch.bfloat16)
    assert llama.model.output_weight.dtype == torch.bfloat16
    assert llama.generate(PROMPT, max_tokens=5, seed=1)
    with pytest.raises(ModelFolderError, match="is no model folder"):
        load(tmp_path, "cpu")
    with pytest.raises(ConfigError, match="cannot be used here"):
        load(tiny_run / "model", "cuda:99")


def test_a_folder_gives_defaults_and_the_layout_of_chats(
    tiny_llama: LanguageModel, tiny_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_run / "model", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "generation_config.json").write_text(
        '{"do_sample": false, "max_new_tokens": 5, "temperature": 0.3}', encoding="utf-8"
    )
    own = load(folder, "cpu")
    tokenizer, messages = own.tokenizer, [Message("user", "old")]
    assert own.defaults == {"temperature": 0.0, "max_tokens": 5}
    assert own.encode_chat(messages) == tokenizer.encode("user: old")
    greedy = tiny_llama.generate(PROMPT, temperature=0, max_tokens=5)
    assert own.generate(PROMPT) == greedy
    assert own.complete(own.encode_prompt(PROMPT))[0].text == greedy
    assert "".join(own.chat(messages)) == "".join(
        text
        for _, text in tiny_llama.stream(own.encode_chat(messages), temperature=0, max_tokens=5)
    )
    told = {"temperature": 0.9, "max_tokens": 20, "seed": 3}
    assert own.generate(PROMPT, **told) == tiny_llama.generate(PROMPT, **told)
    assert own.generate(PROMPT, temperature=None) == greedy
    bare = load(folder, "cpu", generation_config=False, template="llama3")
    assert bare.defaults == {}
    assert bare.encode_chat(messages) == tiny_llama.encode_chat(messages)
    with pytest.raises(TokenizerError, match="neither"):
        load(folder, "cpu", template="lama3").encode_chat(messages)


def test_a_token_that_came_after_training_is_named(tiny_llama: LanguageModel) -> None:
    """A padding token that was added to the tokenizer alone: which, and where to take it out."""
    rows = tiny_llama.model.config.vocab_size
    definition = json.loads(tiny_llama.tokenizer.to_json())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = {"id": rows, "content": "<pad>", "special": True, **flags}
    definition["added_tokens"].append(added)
    with pytest.raises(TokenizerError, match=rf"<pad> \({rows}\) came after training; take them"):
        LanguageModel(tiny_llama.model, Tokenizer(json.dumps(definition)))
