"""Step times of arms: one number a round and mode, shared by arms that cost the same, with the
machine beside them.
"""

from pathlib import Path

import pytest
from small_study import write_study

from puna.errors import ConfigError, DataError
from puna.study.arms import resolve_arms
from puna.study.definition import read_study
from puna.study.step_times import measure_step_times, read_step_times

ARMS = {"small": [], "late": ["optimizer.learning_rate=1e-9"], "large": ["train.batch_size=32"]}


def test_arms_take_turns_and_twins_share_their_times(
    tiny_recipe_file: Path, tmp_path: Path
) -> None:
    folder = write_study(tmp_path / "study", tiny_recipe_file, arms=ARMS, baseline="small")
    found = measure_step_times(resolve_arms(read_study(folder), folder), ["eager"], rounds=7)
    assert {"date", "processor", "cores", "threads", "torch", "others", "rounds"} < set(found)
    assert "compiled" not in found
    times = found["eager"]
    assert list(times) == list(ARMS)
    assert times["small"] == times["late"]
    assert [len(rounds) for rounds in times.values()] == [7, 7, 7]
    assert sorted(times["large"])[3] > sorted(times["small"])[3]  # eight times the work


def test_a_mode_that_does_not_exist_is_rejected(tiny_recipe_file: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", tiny_recipe_file, step_times=["interpreted"])
    with pytest.raises(ConfigError, match="step_times"):
        read_study(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"eager": {}}'])
def test_damaged_step_times_are_rejected(content: str, tmp_path: Path) -> None:
    (tmp_path / "step_times.json").write_text(content)
    with pytest.raises(
        DataError,
        match=r"step_times\.json does not hold step times .* delete it, and measure them again",
    ):
        read_step_times(tmp_path)
