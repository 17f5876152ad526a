"""The runs of a study as jobs of a cluster, through submitit: each arm with each seed by itself, on
whichever machine is free.

Needs a folder that all machines see, and the extra `cluster`. A job that the cluster stops, for its
time or for a better-paying one, is put back into the queue and goes on from its newest checkpoint.
Jobs live on if the study's own process ends: run again, it waits for them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from puna.errors import ConfigError
from puna.study.runner import JobExecutor, Pending


class ClusterExecutor(JobExecutor):
    """Submits to a cluster that submitit knows: `slurm`, or `local` for processes of this machine,
    all at once.

    options: submitit's parameters, such as timeout_min, gpus_per_node, slurm_partition. Logs go to
    `runs/jobs` in the study's folder. Raises ConfigError where submitit is missing, and for a
    cluster or an option that it does not know.
    """

    def __init__(self, cluster: str, folder: Path, options: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "a study on a cluster needs submitit: pip install 'puna[cluster]'"
            ) from error
        try:
            self._executor = submitit.AutoExecutor(folder / "runs" / "jobs", cluster=cluster)
            self._executor.update_parameters(**options)
        except (ValueError, NameError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"submitit cannot submit to {cluster!r} with {dict(options)}: {error}"
            ) from error

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Pending:
        """Put one call into the cluster's queue; function and arguments are pickled by reference or
        value.
        """
        job: Pending = self._executor.submit(_Resumable(function), *arguments)
        return job


class _Resumable:
    """A function that goes on where it was, when it is called again with the same arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def checkpoint(self, *arguments: Any) -> Any:
        """The job that submitit puts back into the queue when the cluster stops the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)
