"""Samplers on distributions small enough to work by hand, beside transformers' own, and by counting
draws: all of it with PyTorch's tensors and with numpy arrays.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.inference import arrays, logits_processors, sampling
from puna.inference.logits_processors import SamplingRow
from puna.inference.request import GenerationOptions
from puna.inference.sampling import uniform

KINDS = ["torch", "numpy"]
kind = "torch"


@pytest.fixture(scope="module", autouse=True, params=KINDS)
def _kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kind of array that the functions below are called with."""
    global kind
    kind = request.param
    yield
    kind = "torch"


def on_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with arrays of the kind in turn; takes and gives tensors."""

    def call(*arguments: Any) -> Any:
        if kind == "torch":
            return function(*arguments)
        result = function(
            *(one.numpy() if isinstance(one, torch.Tensor) else one for one in arguments)
        )
        return torch.from_numpy(result) if isinstance(result, np.ndarray) else result

    return call


choose, draw, log_probabilities = map(
    on_arrays, (sampling.choose, sampling.draw, sampling.log_probabilities)
)
filter_logits, process_logits = map(
    on_arrays, (logits_processors.filter_logits, logits_processors.process_logits)
)
repetition_penalty, output_penalty, with_temperature = map(
    on_arrays,
    (
        logits_processors.repetition_penalty,
        logits_processors.output_penalty,
        logits_processors.with_temperature,
    ),
)
top_k, top_p, min_p, typical_p = map(
    on_arrays,
    (
        logits_processors.top_k,
        logits_processors.top_p,
        logits_processors.min_p,
        logits_processors.typical_p,
    ),
)
softmax, log_softmax = on_arrays(arrays.softmax), on_arrays(arrays.log_softmax)

FOUR = [0.1, 0.4, 0.2, 0.3]
HIGHEST = 1 - 2.0**-53  # the greatest noise there is


def logits(*rows: list[float]) -> torch.Tensor:
    """The logits of these probabilities, shifted, since a constant changes nothing."""
    return torch.tensor(rows).log() + 5.0


def row(
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
    seed: int = 0,
    index: int = 0,
    allowed: Sequence[bool] | None = None,
    banned: Sequence[int] = (),
    **options: Any,
) -> SamplingRow:
    mask = None if allowed is None else np.array(allowed)
    return SamplingRow(GenerationOptions(**options), index, prompt, output, seed, mask, banned)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def distribution(values: torch.Tensor, *rows: SamplingRow) -> torch.Tensor:
    """The probabilities that the rows' tokens are drawn with."""
    return softmax(filter_logits(process_logits(values, rows), rows))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, FOUR),
        # squares over their sum
        ({"temperature": 0.5}, [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, FOUR),
        ({"top_p": 0.35}, [0, 1, 0, 0]),  # the likeliest alone crosses p, and stays
        ({"top_p": 1e-30}, [0, 1, 0, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),  # 0.4 falls short, the token that crosses is kept
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 0.95}, FOUR),
        ({"min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),  # at least 0.24
        ({"min_p": 1.0}, [0, 1, 0, 0]),
        ({"min_p": 0.2}, FOUR),
        # Negative log-probabilities 2.30, 0.92, 1.61, 1.20, mean 1.28: from the closest on ids
        # 3, 2, 1, 0,
        # and the likeliest comes third
        ({"typical_p": 0.25}, [0, 0, 0, 1]),
        ({"typical_p": 0.45}, [0, 0, 2 / 5, 3 / 5]),
        ({"typical_p": 0.85}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"typical_p": 0.95}, FOUR),
        # the squares: 0.53 falls short
        ({"temperature": 0.5, "top_p": 0.6}, [0, 16 / 25, 0, 9 / 25]),
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),  # of what top-k leaves, 7/9 crosses
        # of what min-p leaves the entropy is 0.68, the negative log-probabilities 0.56 and 0.85
        ({"min_p": 0.6, "typical_p": 0.25}, [0, 1, 0, 0]),
        # of what top-k leaves the entropy is 1.06, the negative log-probabilities 0.81, 1.50, 1.10
        ({"top_k": 3, "typical_p": 0.2}, [0, 0, 0, 1]),
        ({"logit_bias": {0: math.log(4), 2: -100}}, [4 / 11, 4 / 11, 0, 3 / 11]),
        # added before the temperature divides
        ({"logit_bias": {0: math.log(4)}, "temperature": 0.5}, [16 / 45, 16 / 45, 4 / 45, 9 / 45]),
        ({"banned": (1, 3)}, [1 / 3, 0, 2 / 3, 0]),
        ({"banned": (1,), "top_k": 1}, [0, 0, 0, 1]),  # what is ruled out is not counted
        ({"allowed": [True, False, True, False]}, [1 / 3, 0, 2 / 3, 0]),
        # half of 1 and of 3
        ({"output": (1, 1, 3), "presence_penalty": math.log(2)}, [2 / 13, 4 / 13, 4 / 13, 3 / 13]),
        # a quarter of 1, half of 3
        (
            {"output": (1, 1, 3), "frequency_penalty": math.log(2)},
            [1 / 5.5, 1 / 5.5, 2 / 5.5, 1.5 / 5.5],
        ),
        (
            {"output": (1, 1, 3), "frequency_penalty": -math.log(2)},
            [1 / 25, 16 / 25, 2 / 25, 6 / 25],
        ),
        # the prompt does not count
        ({"prompt": (1, 3), "presence_penalty": 2, "frequency_penalty": 2}, FOUR),
    ],
)
def test_four_tokens_by_hand(options: dict[str, Any], expected: list[float]) -> None:
    assert distribution(logits(FOUR), row(**options))[0].tolist() == pytest.approx(
        expected, abs=1e-6
    )


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    values = torch.tensor([[2.0, -2.0, 0.0, 1.0], [3.0, -3.0, 0.5, -1.0]])
    seen = torch.tensor([[True, True, False, False], [False, False, False, True]])
    expected = [[1.0, -4.0, 0.0, 1.0], [3.0, -3.0, 0.5, -4.0]]
    assert repetition_penalty(values, seen, column(2.0, 4.0)).tolist() == expected
    assert values[0].tolist() == [2.0, -2.0, 0.0, 1.0], "the input is left alone"


def test_the_penalty_sees_the_prompt_and_the_output_once_each() -> None:
    values = torch.tensor([[2.0, 2.0, 2.0]])
    assert process_logits(
        values, [row(prompt=(0, 0), output=(0, 2), repetition_penalty=2.0)]
    ).tolist() == [[1.0, 2.0, 1.0]]


def test_presence_counts_once_and_frequency_each_time() -> None:
    counts = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
    expected = [[1.0, 0.25, -0.75], [2.0, 1.0, 1.0]]
    assert (
        output_penalty(torch.ones(2, 3), counts, column(0.25, 0.0), column(0.5, -0.5)).tolist()
        == expected
    )


def test_bias_comes_before_the_penalties_and_these_before_what_is_ruled_out() -> None:
    values = torch.tensor([[-1.0, 4.0, 6.0]])
    one = row(
        prompt=(0,),
        output=(0,),
        repetition_penalty=2.0,
        presence_penalty=0.5,
        logit_bias={0: 3.0},
        banned=(2,),
    )
    assert process_logits(values, [one]).tolist() == [[0.5, 4.0, -math.inf]]  # (-1 + 3) / 2 - 0.5


def test_equal_tokens_are_kept_together() -> None:
    level = torch.tensor([[1.0, 3.0, 1.0, 1.0]])
    for kept in (
        top_k(level, column(2)),
        top_p(level, column(0.75)),
        typical_p(level, column(0.75)),
        min_p(level, column(0.13)),
    ):
        assert kept.equal(level)
    assert top_k(level, column(1))[0].isfinite().tolist() == [False, True, False, False]


ROWS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12)


@given(ROWS, st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 15))
def test_filters_keep_the_likeliest_and_change_no_kept_logit(
    values: list[float], p: float, fraction: float, k: int
) -> None:
    before = torch.tensor([values])
    for after in (
        top_p(before, column(p)),
        min_p(before, column(fraction)),
        top_k(before, column(k)),
    ):
        kept = after.isfinite()
        assert kept[0, before.argmax()]
        assert after[kept].equal(before[kept])
        assert kept.all() or before[kept].min() > before[~kept].max()
    chances = before.double().softmax(-1)
    kept = top_p(before, column(p)).isfinite()
    assert chances[kept].sum() >= p - 1e-5
    least = kept & (chances <= chances[kept].min() * (1 + 1e-6))
    assert chances[kept & ~least].sum() < p + 1e-5, (
        "without the least likely ones the rest would not reach p"
    )


@given(ROWS, st.floats(0.01, 1))
def test_the_most_typical_tokens_are_kept(values: list[float], p: float) -> None:
    before = torch.tensor([values])
    kept = typical_p(before, column(p)).isfinite()
    chances = before.double().softmax(-1)
    distance = (-chances.log() + (chances * chances.log()).sum()).abs()
    assert chances[kept].sum() >= p - 1e-5
    assert kept.all() or distance[kept].max() < distance[~kept].min() + 1e-4
    furthest = kept & (distance >= distance[kept].max() - 1e-4)
    assert chances[kept & ~furthest].sum() < p + 1e-5


@pytest.mark.parametrize(
    ("change", "parameters"),
    [
        (top_k, column(3, 20, 1)),
        (top_p, column(0.9, 0.2, 0.6)),
        (min_p, column(0.01, 0.5, 0.1)),
        (typical_p, column(0.9, 0.2, 0.6)),
        (with_temperature, column(0.3, 2.0, 1.0)),
    ],
)
def test_each_row_has_a_parameter_of_its_own(
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], parameters: torch.Tensor
) -> None:
    values = 2 * torch.randn((3, 40), generator=torch.Generator().manual_seed(0))
    together = change(values, parameters)
    assert together.equal(
        torch.cat(
            [change(values[index : index + 1], parameters[index : index + 1]) for index in range(3)]
        )
    )
    assert together.isfinite().sum(-1).unique().numel() == (1 if change is with_temperature else 3)


def test_a_share_of_almost_one_keeps_almost_all_where_rounded_probabilities_fall_short_of_it() -> (
    None
):
    values = torch.randn((200, 50), generator=torch.Generator().manual_seed(0))
    assert values.softmax(-1).double().sum(-1).min() < 1 - 1e-8
    for change in (top_p, typical_p):
        for share in (1.0, 1 - 2**-24):
            assert change(values, torch.full((200, 1), share)).isfinite().sum() >= 199 * 50


@pytest.mark.parametrize("seed", range(5))
def test_transformers_agrees(seed: int) -> None:
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        SequenceBiasLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
        TypicalLogitsWarper,
    )

    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn((4, 50), generator=generator)
    ids = torch.randint(0, 50, (4, 9), generator=generator)
    seen = torch.zeros(4, 50, dtype=torch.bool).scatter(1, ids, True)
    every = torch.ones(4, 1)
    theirs: Callable[..., torch.Tensor]
    pairs = [
        (RepetitionPenaltyLogitsProcessor(1.7), repetition_penalty(values, seen, 1.7 * every)),
        (TopKLogitsWarper(7), top_k(values, 7 * every.long())),
        (TopPLogitsWarper(0.8), top_p(values, 0.8 * every)),
        (MinPLogitsWarper(0.1), min_p(values, 0.1 * every)),
        (TypicalLogitsWarper(0.6), typical_p(values, 0.6 * every)),
    ]
    for theirs, ours in pairs:
        torch.testing.assert_close(ours, theirs(ids, values.clone()), msg=type(theirs).__name__)
    bias = {3: 2.5, 40: -1.0}
    chain = values
    for theirs in (
        SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()}),
        RepetitionPenaltyLogitsProcessor(1.3),
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.9),
        MinPLogitsWarper(0.05),
        TypicalLogitsWarper(0.6),
    ):
        chain = theirs(ids, chain)
    options: dict[str, Any] = {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.05,
        "typical_p": 0.6,
    }
    rows = [
        row(text[:5], text[5:], logit_bias=bias, repetition_penalty=1.3, **options)
        for text in ids.tolist()
    ]
    ours = distribution(values, *rows)
    torch.testing.assert_close(ours, chain.softmax(-1))
    assert (ours > 0).sum() < (top_k(values, 20 * every.long()) > -torch.inf).sum()


def chi_square(tokens: Sequence[int], expected: Sequence[float]) -> float:
    counts = torch.bincount(torch.tensor(tokens), minlength=len(expected)).tolist()
    return sum(
        (count - len(tokens) * p) ** 2 / (len(tokens) * p)
        for count, p in zip(counts, expected, strict=True)
    )


@pytest.mark.parametrize("varied", ["seed", "index", "position"])
def test_draws_follow_the_probabilities(varied: str) -> None:
    """Chi-square of 4,000 draws with three degrees of freedom: beyond 21.1 once in ten thousand
    seeds, and the seeds are fixed.
    """
    draws = 4000
    values = logits(FOUR).expand(draws, 4)

    def drawn(**options: Any) -> list[int]:
        return choose(
            values,
            [
                row(**({"output": [0] * n} if varied == "position" else {varied: n}), **options)
                for n in range(draws)
            ],
        )

    assert chi_square(drawn(), FOUR) < 21.1
    assert set(drawn(top_p=0.5)) == {1, 3}


def test_consecutive_draws_are_independent() -> None:
    """Pairs of neighbours, by position and by seed, fill 100 squares evenly: 99 degrees of freedom,
    beyond 160.1 once in ten thousand.
    """
    for noise in (
        [uniform(5, 0, n) for n in range(20_000)],
        [uniform(n, 0, 7) for n in range(20_000)],
    ):
        squares = [
            10 * int(10 * first) + int(10 * second)
            for first, second in zip(noise[::2], noise[1::2], strict=True)
        ]
        assert chi_square(squares, [0.01] * 100) < 160.1


PINNED = {
    (0, 0, 0): 508_604_106_994_858,
    (7, 0, 0): 6_560_375_150_073_525,
    (7, 2, 41): 6_353_009_847_552_429,
    (2**63 - 1, 3, 1000): 7_868_272_957_212_508,
}


def test_noise_is_the_same_for_ever() -> None:
    """Pinned: texts that a seed gave yesterday must come again tomorrow, on any machine. The
    integers are noise x 2^53.
    """
    assert [int(uniform(*key) * 2**53) for key in PINNED] == list(PINNED.values())


@given(st.integers(0, 2**63 - 1), st.integers(0, 1000), st.integers(0, 10**6))
def test_noise_is_below_one_and_belongs_to_seed_and_position(
    seed: int, index: int, position: int
) -> None:
    noise = uniform(seed, index, position)
    assert 0 <= noise < 1
    assert (noise * 2**53).is_integer()
    assert noise == uniform(seed + index, 0, position), (
        "a sequence has the seed `index` after the first one's"
    )
    assert noise != uniform(seed, index, position + 1)


@given(
    st.lists(st.just(-math.inf) | st.floats(-200, 20, width=32), min_size=1, max_size=9),
    st.integers(0, 2**53 - 1),
)
def test_a_draw_inverts_the_cumulative_distribution_exactly(
    values: list[float], noise: int
) -> None:
    """Against whole numbers of 2^-52, summed by Python without any rounding; what weighs nothing is
    never drawn.
    """
    if max(values) == -math.inf:
        return
    weights = [int(Fraction(p) * 2**52) for p in softmax(torch.tensor([values]))[0].tolist()]
    for numerator in (noise, 0, 2**53 - 1):
        (token,) = draw(torch.tensor([values]), [numerator / 2**53])
        below = sum(weights[:token])
        # The height itself, noise x total, is one float64 product, hence the whole number of slack
        assert below - 1 <= Fraction(numerator, 2**53) * sum(weights) <= below + weights[token] + 1
        assert weights[token] > 0


def test_draws_are_exact_in_a_large_vocabulary() -> None:
    """2^17 equal tokens: noise i / 2^17 gives i, and the next lower one i - 1. Sums in float32
    would be off by dozens.
    """
    level, ids = torch.zeros(1, 2**17), (1, 77_777, 2**17 - 1)
    assert [draw(level, [token / 2**17])[0] for token in ids] == list(ids)
    assert [draw(level, [token / 2**17 - 2.0**-53])[0] for token in ids] == [
        token - 1 for token in ids
    ]


@pytest.mark.parametrize("noise", [0.0, HIGHEST])
def test_ruled_out_tokens_at_the_edges_are_never_drawn(noise: float) -> None:
    values = 3 * torch.randn((50, 999), generator=torch.Generator().manual_seed(0))
    values[:, :7], values[:, -7:] = -torch.inf, -torch.inf
    assert draw(values, [noise] * 50) == [7 if noise == 0 else 991] * 50


def test_temperature_zero_takes_the_likeliest_after_bias_and_penalties() -> None:
    values = logits(FOUR, [0.3, 0.2, 0.4, 0.1])
    assert choose(values, [row(temperature=0, top_k=3), row(temperature=0, seed=9)]) == [1, 2]
    four = logits(FOUR)
    assert choose(four, [row(prompt=(1,), temperature=0, repetition_penalty=9.0)]) == [3]
    assert choose(four, [row(output=(1,), temperature=0, presence_penalty=1.0)]) == [3]
    assert choose(four, [row(temperature=0, logit_bias={0: 50.0})]) == [0]
    assert choose(four, [row(temperature=0, banned=(1, 3))]) == [2]
    assert choose(four, [row(temperature=0, allowed=[True, False, True, False])]) == [2]


def test_of_equally_likely_tokens_the_lowest_id_wins() -> None:
    values = torch.tensor([[0.0, 2.0, 2.0, 1.0, 2.0]]).repeat(1, 13)
    assert choose(values, [row(temperature=0)]) == [1]
    assert [token for token, _ in top_of(values, 6)] == [1, 2, 4, 6, 7, 9]


ONE_ROW = st.builds(
    row,
    prompt=st.lists(st.integers(0, 36), max_size=5),
    output=st.lists(st.integers(0, 36), max_size=5),
    seed=st.integers(0, 2**63 - 1),
    index=st.integers(0, 3),
    banned=st.lists(st.integers(0, 36), max_size=3),
    allowed=st.none() | st.just([id_ % 3 == 0 for id_ in range(37)]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.sampled_from([0.2, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05]),
    typical_p=st.sampled_from([0.3, 0.95, 1.0]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([-0.3, 0.0, 0.4]),
    logit_bias=st.dictionaries(st.integers(0, 36), st.floats(-3, 3, width=32), max_size=2),
)


@given(st.data(), st.lists(ONE_ROW, min_size=1, max_size=7), st.integers(0, 2**31))
def test_a_row_is_drawn_without_regard_to_its_neighbours(
    data: st.DataObject, rows: list[SamplingRow], seed: int
) -> None:
    """Any of the rows in any order: the same tokens, and distributions equal to the last bit."""
    values = 3 * torch.randn((len(rows), 37), generator=torch.Generator().manual_seed(seed))
    before = values.clone()
    tokens = choose(values, rows)
    some = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, unique=True))
    assert choose(values[some], [rows[index] for index in some]) == [
        tokens[index] for index in some
    ]
    warm = [index for index in range(len(rows)) if rows[index].options.temperature > 0]
    some = [index for index in some if index in warm]
    if some:
        together = distribution(values[warm], *(rows[index] for index in warm))
        alone = distribution(values[some], *(rows[index] for index in some))
        assert alone.equal(together[[warm.index(index) for index in some]])
    assert values.equal(before), "the input is left alone"


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("width", [4096, 50_257])
def test_a_lone_row_of_a_large_vocabulary_is_summed_as_in_a_batch(width: int) -> None:
    """PyTorch splits the sum of one long row among threads, which rounds differently."""
    values = 3 * torch.randn((3, width), generator=torch.Generator().manual_seed(2))
    rows = [
        row(seed=1, temperature=0.8, top_p=0.95, typical_p=0.9),
        row(seed=2),
        row(seed=3, temperature=1.3, min_p=0.01),
    ]
    together = distribution(values, *rows)
    for index, one in enumerate(rows):
        assert distribution(values[index : index + 1], one).equal(together[index : index + 1])
        assert choose(values[index : index + 1], [one]) == choose(values, rows)[index : index + 1]


def test_without_penalties_a_draw_knows_only_how_many_tokens_came_before() -> None:
    values = torch.zeros(1, 1000)
    assert choose(values, [row(output=(1, 2, 3), seed=4)]) == choose(
        values, [row(prompt=(5,), output=(9, 9, 9), seed=4)]
    )
    assert choose(values, [row(output=(1, 2, 3), seed=4)]) != choose(
        values, [row(output=(1, 2), seed=4)]
    )


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 1e308])
@pytest.mark.parametrize("penalty", [5e-324, 1e308])
def test_extreme_options_give_a_token_all_the_same(temperature: float, penalty: float) -> None:
    values = torch.tensor([[9.0, -8.0, 0.0, 7.0, -torch.inf]])
    one = row(
        (0, 1, 2),
        repetition_penalty=penalty,
        temperature=temperature,
        top_k=4,
        top_p=0.9,
        min_p=1e-9,
        typical_p=0.9,
    )
    assert choose(values, [one])[0] in range(4)
    assert choose(values, [row((0, 1, 2), repetition_penalty=penalty, temperature=0)])[0] in range(
        4
    )


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("broken", [-math.inf, math.inf, math.nan])
def test_a_row_without_a_possible_token_is_named(temperature: float, broken: float) -> None:
    values = torch.zeros(3, 4)
    values[1] = -math.inf
    values[1, 2] = broken
    with pytest.raises(ValueError, match=r"rows \[1\] of 3"):
        choose(values, [row(temperature=temperature)] * 3)


def test_a_constraint_that_allows_nothing_is_named() -> None:
    nothing, two = [False] * 4, [True, False, True, False]
    rows = [row(allowed=nothing), row(), row(allowed=two, banned=(0, 2), temperature=0)]
    with pytest.raises(ValueError, match=r"rows \[0, 2\] of 3"):
        choose(torch.zeros(3, 4), rows)


def test_half_precision_logits_count_as_float32() -> None:
    values = logits(FOUR).half()
    one = row(seed=3, temperature=0.7)
    assert choose(values, [one]) == choose(values.float(), [one])
    assert log_probabilities(values, [1], [4]) == log_probabilities(values.float(), [1], [4])


def test_no_rows_give_no_tokens() -> None:
    assert choose(torch.zeros(0, 4), []) == []
    assert log_probabilities(torch.zeros(0, 4), [], []) == []


def top_of(values: torch.Tensor, count: int) -> tuple[tuple[int, float], ...]:
    (result,) = log_probabilities(values, [0], [count])
    assert result is not None
    return result.top


def test_log_probabilities_are_the_models_own() -> None:
    first, second, third, fourth = log_probabilities(
        logits(FOUR, FOUR, FOUR, FOUR), [2, 0, 1, 1], [2, None, 0, 9]
    )
    assert second is None
    assert first is not None
    assert third is not None
    assert fourth is not None
    assert (first.id, [token for token, _ in first.top]) == (2, [1, 3])
    assert [first.logprob, *(value for _, value in first.top)] == pytest.approx(
        [math.log(0.2), math.log(0.4), math.log(0.3)]
    )
    assert (third.id, third.top) == (1, ())
    assert third.logprob == pytest.approx(math.log(0.4))
    assert [token for token, _ in fourth.top] == [1, 3, 2, 0], "no more than there are"


def test_a_certain_token_and_an_impossible_one_have_log_probabilities() -> None:
    values = torch.tensor([[0.0, 500.0, -torch.inf]])
    assert top_of(values, 3) == ((1, 0.0), (0, -500.0), (2, -math.inf))


@given(
    st.lists(st.sampled_from([-3.0, 0.0, 0.5, 4.0]), min_size=5, max_size=5),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_alternatives_are_sorted_by_likelihood_then_id_and_know_no_neighbours(
    values: list[float], top: int, other: int
) -> None:
    batch = torch.tensor([values, [1.0, 2.0, 3.0, 4.0, 5.0]])
    result, _ = log_probabilities(batch, [3, 0], [top, other])
    assert result is not None
    scores = log_softmax(batch)[0].tolist()
    assert result.top == tuple(
        sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))[:top]
    )
    assert result.logprob == scores[3]
