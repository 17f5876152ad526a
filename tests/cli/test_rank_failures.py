"""The last line of `puna train --processes` after a failure: which rank, how, and what helps."""

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api

from puna.cli.processes import launch


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (-9, "with SIGKILL; the same command with --resume goes on from the last checkpoint"),
        (
            1,
            "with the reason above; the same command with --resume goes on from the last checkpoint"
            " once that is mended",
        ),
    ],
)
def test_the_advice_after_a_failure_is_that_of_its_kind(
    exitcode: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: object) -> None:
        failure = ProcessFailure(local_rank=1, pid=7, exitcode=exitcode, error_file="none")
        raise ChildFailedError("puna", {1: failure})

    for name in ("OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")  # which launch would set for good
    monkeypatch.setattr(api, "elastic_launch", lambda *_: fails)
    with pytest.raises(SystemExit) as ended:
        launch(["train"], 2, 0, 1.0)
    assert ended.value.code == f"error: of the processes rank 1 (process 7) failed first, {words}"
