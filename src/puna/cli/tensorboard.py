"""The run's numbers as TensorBoard event files, for those who have the `tensorboard` extra."""

from pathlib import Path
from typing import Any

from puna.errors import ConfigError
from puna.workflow.observer import RunObserver


class TensorBoard(RunObserver):
    """An observer that writes every number of a record as a scalar, named kind/number."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "TensorBoard is not installed: pip install 'puna[tensorboard]', or leave out"
                " --tensorboard"
            ) from error
        self._writer = SummaryWriter(folder)

    def logged(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{record['kind']}/{key}", value, record["step"])
        self._writer.flush()
