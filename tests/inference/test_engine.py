"""The engine against the definition: equal to computing everything anew, one prompt at a time,
whatever else is going on; on each executor.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from both_executors import EXECUTORS, pack_model
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import RequestError
from puna.inference.constrain import ConstraintCompiler, Matcher
from puna.inference.engine import Engine
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import ScheduledChunk, StepOutput
from puna.inference.language_model import LanguageModel
from puna.inference.native_executor import NativeExecutor
from puna.inference.request import Constraint, Event, GenerationOptions, Request
from puna.inference.torch_executor import TorchExecutor
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.native.library import load

PROMPT = (5, 80, 13, 200, 7)
PROMPTS = [
    PROMPT,
    tuple(range(40)),
    (9,),
    (*range(40), 77, 78),  # shares two blocks with the second
    (3, 4, 5, 6) * 10,  # repeats itself
    tuple(random.Random(0).choices(range(300), k=70)),
]


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Random weights, so large that every token of the past changes the next one: greedy text is as
    varied as sampled text.
    """
    config = ModelConfig(
        vocab_size=300,
        width=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        feed_forward_multiple=32,
        context_length=96,
    )
    model = build_transformer(config).eval()
    init_weights(model, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight *= 12
    return model


EngineOf = Callable[..., Engine]


@pytest.fixture(scope="module", params=EXECUTORS)
def engine_of(model: Transformer, request: pytest.FixtureRequest) -> EngineOf:
    """Engines of the model on an executor with so many blocks; the options are EngineConfig's."""
    packed = pack_model(model, load().lanes) if request.param == "native" else None

    def build(
        blocks: int = 32, constraints: ConstraintCompiler | None = None, **options: Any
    ) -> Engine:
        chosen = EngineConfig(**options)
        executor: TorchExecutor | NativeExecutor
        sizes: dict[str, Any] = {
            "num_blocks": blocks,
            "block_size": chosen.block_size,
            "vocab_size": 300,
            "int8_cache": chosen.kv_cache_dtype == "int8",
        }
        if packed is None:
            executor = TorchExecutor(model, batch_invariant=chosen.batch_invariant, **sizes)
        else:
            executor = NativeExecutor(load(), packed, **sizes)
        return Engine(executor, chosen, constraints)

    return build


def run(engine: Engine, requests: Sequence[Request]) -> dict[str, list[Event]]:
    """Every request at once, to the end; the events of each."""
    for request in requests:
        engine.add(request)
    return finish(engine)


def finish(engine: Engine) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    steps = 0
    while engine.busy:
        for event in engine.step():
            found[event.request].append(event)
        steps += 1
        assert steps < 5000, "the engine is busy and gets nowhere"
    assert engine.pool.in_use == 0, "a block is still held although nobody is left"
    return found


def ids_of(events: Sequence[Event], index: int = 0) -> list[int]:
    return [id_ for event in events if event.index == index for id_ in event.ids]


def greedy_anew(model: Transformer, prompt: Sequence[int], count: int) -> list[int]:
    """The definition: the likeliest token of the whole sequence, computed from its beginning each
    time.
    """
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1, :300].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def expected(model: Transformer) -> list[list[int]]:
    found = [greedy_anew(model, prompt, 24) for prompt in PROMPTS]
    assert all(len(set(ids)) > 8 for ids in found), (
        "texts that say one thing all the time would agree by chance"
    )
    return found


GREEDY = GenerationOptions(temperature=0.0, max_tokens=24)


def requests_of(options: GenerationOptions) -> list[Request]:
    return [Request(str(index), prompt, options) for index, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"speculate": False},
        {"prefix_caching": False},
        {"max_step_tokens": 16},
        {"max_step_tokens": 1},
        {"max_step_tokens": 7, "block_size": 48},
        {"block_size": 64},
        {"max_running": 2},
        {"batch_invariant": True},
        {"blocks": 7},  # one sequence fits, two at a time do not: preemption
        {"blocks": 4, "max_step_tokens": 9, "block_size": 32},
    ],
    ids=str,
)
def test_greedy_text_is_that_of_the_definition(
    options: dict[str, Any], engine_of: EngineOf, expected: list[list[int]]
) -> None:
    engine = engine_of(**options)
    found = run(engine, requests_of(GREEDY))
    assert [ids_of(found[str(index)]) for index in range(len(PROMPTS))] == expected
    again = run(engine, requests_of(GREEDY))
    assert [ids_of(again[str(index)]) for index in range(len(PROMPTS))] == expected, (
        "the second time much is cached already"
    )
    assert all(events[-1].finish == "length" for events in found.values())
    assert engine.statistics().generated_tokens == 2 * 24 * len(PROMPTS)


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 1, "blocks": 400},
        {"block_size": 3, "blocks": 64, "max_step_tokens": 7},
        {"block_size": 5, "blocks": 20, "max_step_tokens": 9},
    ],
    ids=str,
)
def test_blocks_of_any_size_give_the_same_text_on_pytorch(
    options: dict[str, Any], model: Transformer, expected: list[list[int]]
) -> None:
    """The native core's blocks are multiples of 16 tokens."""
    chosen = EngineConfig(**{name: value for name, value in options.items() if name != "blocks"})
    executor = TorchExecutor(
        model, num_blocks=options["blocks"], block_size=chosen.block_size, vocab_size=300
    )
    engine = Engine(executor, chosen)
    for _ in range(2):
        found = run(engine, requests_of(GREEDY))
        assert [ids_of(found[str(index)]) for index in range(len(PROMPTS))] == expected


def test_what_was_saved_and_what_was_lost_is_counted(engine_of: EngineOf) -> None:
    roomy, tight, plain = (
        engine_of(),
        engine_of(blocks=7),
        engine_of(prefix_caching=False, speculate=False),
    )
    for engine in (roomy, tight, plain):
        run(engine, requests_of(GREEDY))
    assert roomy.statistics().cached_tokens == 32, (
        "two blocks of sixteen, of the two prompts that begin alike"
    )
    assert plain.statistics().cached_tokens == plain.statistics().proposed == 0
    assert roomy.statistics().preemptions == 0 < tight.statistics().preemptions
    assert 0 < roomy.statistics().accepted < roomy.statistics().proposed


def test_over_an_int8_cache_drafts_sharing_and_preemption_change_no_text(
    engine_of: EngineOf,
) -> None:
    plain = engine_of(kv_cache_dtype="int8", prefix_caching=False, speculate=False)
    wanted = {name: ids_of(events) for name, events in run(plain, requests_of(GREEDY)).items()}
    for options in ({}, {"blocks": 7}, {"max_step_tokens": 5}, {"block_size": 64}):
        engine = engine_of(kv_cache_dtype="int8", **options)
        for _ in range(2):
            found = run(engine, requests_of(GREEDY))
            assert {name: ids_of(events) for name, events in found.items()} == wanted, options
        statistics = engine.statistics()
        assert 0 < statistics.accepted < statistics.proposed, options
        assert statistics.cached_tokens > 0
        assert (statistics.preemptions > 0) == ("blocks" in options)


def test_one_by_one_and_together_sampling_gives_the_same_text(engine_of: EngineOf) -> None:
    options = [
        GenerationOptions(
            max_tokens=20,
            seed=index,
            temperature=0.5 + index / 4,
            top_p=0.9,
            top_k=50,
            repetition_penalty=1.1,
            n=1 + index % 3,
        )
        for index in range(len(PROMPTS))
    ]
    requests = [
        Request(str(index), prompt, chosen)
        for index, (prompt, chosen) in enumerate(zip(PROMPTS, options, strict=True))
    ]
    together = run(engine_of(), requests)
    for request in requests:
        for engine in (
            engine_of(),
            engine_of(speculate=False, max_step_tokens=5),
            engine_of(batch_invariant=True),
        ):
            alone = run(engine, [request])[request.id]
            for index in range(request.options.n):
                assert ids_of(alone, index) == ids_of(together[request.id], index)


def test_batch_invariance_is_exact_where_it_is_asked_for(engine_of: EngineOf) -> None:
    """Log-probabilities equal to the bit, not only the tokens: alone and among others, whatever is
    cached, preempted or cut.
    """
    options = GenerationOptions(max_tokens=12, temperature=0.0, logprobs=3)
    alone = [
        run(engine_of(batch_invariant=True), [request])[request.id]
        for request in requests_of(options)
    ]
    for settings_ in ({}, {"max_step_tokens": 5}, {"blocks": 7}):
        engine = engine_of(batch_invariant=True, **settings_)
        for _ in range(2):
            together = run(engine, requests_of(options))
            for index, events in enumerate(alone):
                scores = [score for event in together[str(index)] for score in event.logprobs]
                assert scores == [score for event in events for score in event.logprobs]


def test_sequences_are_those_of_their_own_seeds(engine_of: EngineOf) -> None:
    together = run(
        engine_of(), [Request("r", PROMPT, GenerationOptions(seed=11, n=3, max_tokens=12))]
    )["r"]
    for index in range(3):
        alone = run(
            engine_of(),
            [Request("r", PROMPT, GenerationOptions(seed=11 + index, max_tokens=12))],
        )["r"]
        assert ids_of(together, index) == ids_of(alone)
    fresh = [
        ids_of(run(engine_of(), [Request("r", PROMPT, GenerationOptions(max_tokens=12))])["r"])
        for _ in range(2)
    ]
    assert fresh[0] != fresh[1]


def test_several_sequences_compute_their_prompt_once(engine_of: EngineOf) -> None:
    engine = engine_of()
    events = run(
        engine, [Request("r", tuple(range(50)), GenerationOptions(seed=0, n=4, max_tokens=3))]
    )["r"]
    assert [event.cached for event in events if len(event.ids) and event.cached] == [
        48,
        48,
        48,
    ], "three full blocks of sixteen, three times"
    assert engine.statistics().prompt_tokens == 200


def test_logprobs_are_those_of_the_model(engine_of: EngineOf, model: Transformer) -> None:
    prompt = tuple(range(20))
    options = GenerationOptions(
        temperature=2.0, seed=1, max_tokens=9, logprobs=4, prompt_logprobs=2, logit_bias={5: 3.0}
    )
    for settings_ in ({}, {"max_step_tokens": 6}, {"blocks": 2}):
        engine = engine_of(**settings_)
        events = run(
            engine, [Request("r", prompt, options), Request("s", tuple(range(15)), options)]
        )["r"]
        ids = [*prompt, *ids_of(events)]
        with torch.inference_mode():
            wanted = model(torch.tensor([ids]))[0, :, :300].log_softmax(-1)
        found = [
            *events[0].prompt_logprobs,
            *(score for event in events for score in event.logprobs),
        ]
        assert [score.id for score in found] == ids[1:]
        for index, score in enumerate(found):
            assert score.logprob == pytest.approx(wanted[index, ids[index + 1]].item(), abs=1e-4)
            top = wanted[index].topk(2 if index < len(prompt) - 1 else 4)
            assert [value for _, value in score.top] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert all(not event.prompt_logprobs for event in events[1:])


def test_a_prompt_may_fill_the_context_where_one_token_is_asked_for(
    engine_of: EngineOf, model: Transformer
) -> None:
    """A text of the context's length can be scored: what is drawn after it is never read."""
    prompt = tuple(range(96))
    options = GenerationOptions(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    for settings_ in ({}, {"max_step_tokens": 7}):
        events = run(engine_of(**settings_), [Request("r", prompt, options)])["r"]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt]))[0, :, :300]
        wanted = logits.log_softmax(-1)[range(95), prompt[1:]].tolist()
        found = [score.logprob for score in events[0].prompt_logprobs]
        assert found == pytest.approx(wanted, abs=1e-4)
        assert ids_of(events) == [int(logits[-1].argmax())]
        assert events[-1].finish == "length"


def test_an_embedding_is_the_mean_of_the_final_states(
    engine_of: EngineOf, model: Transformer
) -> None:
    prompt = tuple(range(60))
    for settings_ in ({}, {"max_step_tokens": 7}):
        engine = engine_of(**settings_)
        run(engine, [Request("w", prompt, GREEDY)])
        (event,) = run(
            engine,
            [Request("r", prompt, GenerationOptions(), embed=True), Request("s", PROMPT, GREEDY)],
        )["r"]
        with torch.inference_mode():
            mean = model.hidden_states(torch.tensor([prompt]))[0].mean(0)
        torch.testing.assert_close(torch.tensor(event.embedding), mean, rtol=1e-4, atol=1e-5)
        assert (event.finish, event.ids) == ("stop", ())


def test_ends(engine_of: EngineOf, expected: list[list[int]]) -> None:
    """An end token, a stop id, as many tokens as asked for, the end of the context; and what holds
    an end back.
    """
    free = expected[0]
    end, index = free[5], free.index(free[5])

    def generated(
        ends: frozenset[int] = frozenset(), **options: Any
    ) -> tuple[list[int], str | None]:
        chosen = GenerationOptions(temperature=0.0, **{"max_tokens": 24, **options})
        events = run(engine_of(), [Request("r", PROMPT, chosen, ends)])["r"]
        return ids_of(events), events[-1].finish

    assert generated(frozenset([end])) == (free[: index + 1], "stop")
    assert generated(stop_ids=(end,)) == (free[: index + 1], "stop")
    assert generated(frozenset([end]), ignore_end=True) == (free, "length")
    assert generated(max_tokens=1) == (free[:1], "length")
    ids, _ = generated(frozenset([end]), min_tokens=index + 3)
    assert end not in ids[: index + 3]
    assert len(ids) > index + 3
    long = run(engine_of(), [Request("r", (1,) * 90, GREEDY), Request("s", (1,) * 95, GREEDY)])
    assert (len(ids_of(long["r"])), long["r"][-1].finish) == (6, "length")
    assert (len(ids_of(long["s"])), long["s"][-1].finish) == (1, "length")


def test_a_cancelled_request_is_gone_before_the_next_step(engine_of: EngineOf) -> None:
    engine = engine_of()
    for request in (
        Request("a", PROMPT, GREEDY),
        Request("b", tuple(range(40)), GenerationOptions(n=2, max_tokens=24)),
    ):
        engine.add(request)
    engine.step()
    held = engine.pool.in_use
    engine.cancel("b", 1)
    engine.cancel("b", 1)
    assert {(event.request, event.index) for event in engine.step()} == {("a", 0), ("b", 0)}
    engine.cancel("b")
    engine.cancel("never seen")
    assert engine.pool.in_use < held
    assert {event.request for event in engine.step()} == {"a"}
    engine.cancel("a")
    assert (engine.busy, engine.pool.in_use, engine.step(), engine.statistics().cancelled) == (
        False,
        0,
        [],
        3,
    )
    engine.add(Request("a", PROMPT, GREEDY))  # the name is free again
    finish(engine)


def test_a_step_that_failed_leaves_nothing_to_be_trusted(
    engine_of: EngineOf, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    for request in requests_of(GREEDY):
        engine.add(request)
    engine.step()
    engine.step()

    real = engine.executor.run

    def break_down(chunks: Sequence[ScheduledChunk]) -> StepOutput:
        """Other tokens are written, and then no answer comes."""
        real([replace(chunk, ids=[0] * len(chunk.ids)) for chunk in chunks])
        raise RuntimeError("no more memory")

    monkeypatch.setattr(engine.executor, "run", break_down)
    with pytest.raises(RuntimeError, match="no more memory"):
        engine.step()
    monkeypatch.undo()
    failed = engine.fail("the model ran out of memory")
    assert {(event.request, event.finish, event.message) for event in failed} == {
        (str(index), "error", "the model ran out of memory") for index in range(len(PROMPTS))
    }
    assert not engine.busy
    found = run(engine, requests_of(GREEDY))
    assert [ids_of(found[str(index)]) for index in range(len(PROMPTS))] == expected


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("r", (), GREEDY), "the prompt is empty"),
        (
            Request("r", (1,) * 96, GREEDY),
            (
                "the prompt has 96 tokens, but the model's context of 96 must hold it and at least"
                " one more"
            ),
        ),
        (Request("r", (1, 300), GREEDY), "ids outside 0 to 299"),
        (Request("r", (-1, 3), GREEDY), "ids outside 0 to 299"),
        (
            Request("r", (1,) * 70, GREEDY),
            "70 tokens and 24 new ones do not fit the key/value cache of 80 tokens",
        ),
        (
            Request("r", (1,), GenerationOptions(max_tokens=9, stop_ids=(300,))),
            "the id 300 in stop_ids or logit_bias is outside 0 to 299",
        ),
        (
            Request("r", (1,), GenerationOptions(max_tokens=9, logit_bias={-1: 0.0})),
            "the id -1 in stop_ids",
        ),
        (
            Request("r", (1,), GenerationOptions(max_tokens=9, adapter="poet")),
            "there is no adapter 'poet' here; loaded: none",
        ),
    ],
)
def test_what_can_never_be_served_is_rejected_at_once(
    request_: Request, message: str, engine_of: EngineOf
) -> None:
    engine = engine_of(blocks=5)
    with pytest.raises(RequestError, match=message):
        engine.add(request_)
    assert not engine.busy


def test_the_whole_cache_may_go_to_one_request(engine_of: EngineOf) -> None:
    engine = engine_of(blocks=5)
    assert len(ids_of(run(engine, [Request("r", (1,) * 56, GREEDY)])["r"])) == 24


def test_a_long_prompt_does_not_hold_up_those_who_are_being_served(engine_of: EngineOf) -> None:
    """While 80 tokens of prompt are read in chunks, a running stream gets a token in every step."""
    engine = engine_of(max_step_tokens=16, speculate=False)
    engine.add(Request("stream", PROMPT, GREEDY))
    engine.step()
    engine.add(Request("long", tuple(range(80)), GREEDY))
    before_long = 0
    while True:
        events = engine.step()
        assert "stream" in {event.request for event in events}
        if "long" in {event.request for event in events}:
            break
        before_long += 1
        assert engine.statistics().batch_tokens <= 16
    assert before_long >= 5


SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type":'
    ' "integer", "maximum": 150}},'
)
SCHEMA += ' "required": ["name", "age"], "additionalProperties": false}'


def constrained(seed: int, **options: Any) -> GenerationOptions:
    return GenerationOptions(
        **{
            "seed": seed,
            "max_tokens": 60,
            "constraint": Constraint(kind="json_schema", text=SCHEMA),
            **options,
        }
    )


def test_an_output_matches_its_constraint_whatever_else_is_computed(
    engine_of: EngineOf, tiny_llama: LanguageModel
) -> None:
    """Among free texts, with drafts and without: the same output, and always one that the schema
    allows.
    """
    compiler = ConstraintCompiler(tiny_llama.tokenizer, 300)
    texts: list[list[str]] = []
    for settings_ in ({}, {"speculate": False}, {"max_step_tokens": 9, "blocks": 10}):
        engine = engine_of(constraints=compiler, **settings_)
        requests = [
            Request(
                f"c{seed}",
                PROMPTS[seed % 6][:30],
                constrained(seed, temperature=seed / 4),
                tiny_llama.tokenizer.end_ids,
            )
            for seed in range(8)
        ]
        found = run(engine, [*requests, *requests_of(GREEDY)])
        texts.append(
            [
                tiny_llama.tokenizer.decode(ids_of(found[request.id]), skip_special=True)
                for request in requests
            ]
        )
        assert all(found[request.id][-1].finish == "stop" for request in requests)
    for text in texts[0]:
        jsonschema.validate(json.loads(text), json.loads(SCHEMA))
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 4


def test_a_constraint_that_fails_ends_its_own_request_only(
    engine_of: EngineOf,
    tiny_llama: LanguageModel,
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(constraints=ConstraintCompiler(tiny_llama.tokenizer, 300))
    engine.add(Request("c", PROMPT, constrained(1)))
    calls = iter(range(4))
    allowed = Matcher.allowed

    def too_costly(matcher: Matcher) -> torch.Tensor:
        if next(calls, None) is None:
            raise RequestError("too costly")
        return allowed(matcher)

    monkeypatch.setattr(Matcher, "allowed", too_costly)
    found = run(engine, requests_of(GREEDY))
    assert (found["c"][-1].finish, found["c"][-1].message) == ("error", "too costly")
    assert [ids_of(found[str(index)]) for index in range(len(PROMPTS))] == expected


SCHEDULES = st.lists(
    st.tuples(
        st.sampled_from(["add", "step", "step", "step", "cancel"]),
        st.integers(0, len(PROMPTS) - 1),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=25)
@given(
    schedule=SCHEDULES,
    blocks=st.sampled_from([7, 10, 30]),
    max_step_tokens=st.sampled_from([3, 16, 64]),
)
def test_any_schedule_gives_the_same_text_and_leaks_no_block(
    schedule: list[tuple[str, int, int, bool]],
    blocks: int,
    max_step_tokens: int,
    engine_of: EngineOf,
    expected: list[list[int]],
) -> None:
    engine = engine_of(blocks=blocks, max_step_tokens=max_step_tokens, max_running=3)
    found: dict[str, list[Event]] = defaultdict(list)
    prompts: dict[str, int] = {}
    cancelled: set[str] = set()
    for number, (action, prompt, n, speculate) in enumerate(schedule):
        if action == "add":
            prompts[str(number)] = prompt
            options = GenerationOptions(temperature=0.0, max_tokens=10, n=n, speculate=speculate)
            engine.add(Request(str(number), PROMPTS[prompt], options))
        elif action == "cancel" and prompts:
            name = list(prompts)[prompt % len(prompts)]
            cancelled.add(name)
            engine.cancel(name)
        else:
            for event in engine.step():
                found[event.request].append(event)
    for name, events in finish(engine).items():
        assert name not in cancelled
        found[name] += events
    for name, prompt in prompts.items():
        if name not in cancelled:
            for index in {event.index for event in found[name]}:
                assert ids_of(found[name], index) == expected[prompt][:10]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Two threads would spend these small products waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
