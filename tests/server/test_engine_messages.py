"""Messages between the processes: each is read as it was written, however the stream is cut."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from puna.engine_process.messages import (
    Add,
    Cancel,
    Cancelled,
    Close,
    Fatal,
    Heartbeat,
    LineSplitter,
    Load,
    LoadedModel,
    ModelSpec,
    Ready,
    Rejected,
    Stats,
    Stepped,
    decode,
    encode,
)
from puna.inference.engine_config import EngineConfig
from puna.inference.engine_stats import EngineStats
from puna.inference.request import Constraint, Event, GenerationOptions, Request, TokenLogprobs

ids = st.integers(min_value=0, max_value=2**31)
id_tuples = st.lists(ids, max_size=8).map(tuple)
numbers = st.floats(allow_nan=False)
# lone surrogates too: messages may quote anything
texts = st.text(st.characters(exclude_categories=()))
plain_texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)

options = st.builds(
    GenerationOptions,
    max_tokens=st.integers(1, 10**6),
    temperature=st.floats(0, 10),
    top_k=st.none() | st.integers(1, 100),
    logit_bias=st.dictionaries(ids, st.floats(-100, 100), max_size=4),
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.lists(plain_texts, max_size=3).map(tuple),
    stop_ids=id_tuples,
    ignore_end=st.booleans(),
    n=st.integers(1, 16),
    prompt_logprobs=st.none() | st.integers(0, 20),
    constraint=st.none()
    | st.builds(
        Constraint, kind=st.sampled_from(["json_schema", "regex", "grammar"]), text=plain_texts
    ),
    adapter=st.none() | plain_texts,
)
requests = st.builds(
    Request,
    id=texts,
    prompt=id_tuples,
    options=options,
    ends=st.frozensets(ids, max_size=3),
    embed=st.booleans(),
)
logprobs = st.builds(
    TokenLogprobs,
    id=ids,
    logprob=numbers,
    top=st.lists(st.tuples(ids, numbers), max_size=3).map(tuple),
)
logprob_tuples = st.lists(logprobs, max_size=3).map(tuple)
events = st.builds(
    Event,
    request=texts,
    index=st.integers(0, 20),
    ids=id_tuples,
    logprobs=logprob_tuples,
    prompt_logprobs=logprob_tuples,
    finish=st.none() | st.sampled_from(["stop", "length", "error"]),
    embedding=st.lists(numbers, max_size=5).map(tuple),
    message=texts,
    cached=st.integers(0, 1000),
)
messages = st.one_of(
    st.builds(
        Load,
        models=st.lists(
            st.builds(ModelSpec, texts, texts, st.dictionaries(texts, texts, max_size=2)),
            max_size=2,
        ).map(tuple),
        options=st.builds(
            EngineConfig, cache_bytes=st.none() | st.integers(1, 2**50), speculate=st.booleans()
        ),
        dtype=st.sampled_from([None, "float32", "bfloat16"]),
        threads=st.none() | st.integers(1, 64),
    ),
    st.builds(Add, model=texts, request=requests),
    st.builds(
        Cancel, model=texts, request=texts, asked=numbers, index=st.none() | st.integers(0, 20)
    ),
    st.just(Close()),
    st.builds(
        Ready,
        st.lists(
            st.builds(
                LoadedModel, texts, ids, st.lists(texts, max_size=2).map(tuple), ids, texts, texts
            )
        ).map(tuple),
    ),
    st.builds(Fatal, texts),
    st.builds(Rejected, texts, texts),
    st.builds(
        Stepped,
        model=texts,
        seconds=numbers,
        tokens=ids,
        events=st.lists(events, max_size=3).map(tuple),
    ),
    st.builds(Cancelled, model=texts, sequences=ids, steps=ids),
    st.builds(
        Stats, model=texts, statistics=st.builds(EngineStats, waiting=ids, generated_tokens=ids)
    ),
    st.just(Heartbeat()),
)


@example(Load((ModelSpec("", "", {"\ud800": "\udcff"}),), EngineConfig(), "auto", None, None))
@given(messages)
def test_a_message_comes_out_as_it_went_in(message: Any) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert decode(line[:-1]) == message


@given(st.lists(messages, max_size=5), st.data())
def test_lines_are_found_wherever_the_stream_is_cut(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    splitter, received = LineSplitter(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += map(decode, splitter.feed(stream[begin:end]))
    assert received == sent


def test_what_the_reader_knows_is_not_sent() -> None:
    """A step that adds one token to one text is short: this is what crosses for each token."""
    line = encode(Stepped("tiny", 0.001, 1, (Event("r", ids=(5,)),)))
    assert json.loads(line) == [
        "Stepped",
        {"model": "tiny", "seconds": 0.001, "tokens": 1, "events": [{"request": "r", "ids": [5]}]},
    ]


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_none_cross_too(odd: float) -> None:
    """A model with broken weights must not end the conversation of two processes."""
    step = decode(
        encode(Stepped("m", 0.0, 1, (Event("r", ids=(1,), logprobs=(TokenLogprobs(1, odd),)),)))
    )
    assert repr(step.events[0].logprobs[0].logprob) == repr(odd)
