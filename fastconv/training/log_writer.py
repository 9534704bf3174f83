"""Writes a run's TensorBoard logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import UsageError

FOLDER = "tensorboard"  # in the run folder
NAMES = {
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "train_accuracy": "accuracy/training",
    "val_accuracy": "accuracy/validation",
    "lr": "learning rate",
    "images_per_second": "images per second",
}


def check_tensorboard() -> None:
    """Raises UsageError if the package tensorboard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UsageError(
            "tensorboard logs need the package tensorboard: pip install tensorboard"
        ) from None


class LogWriter:
    """Writes each epoch's numbers from epoch `first` on, if `wanted`."""

    def __init__(self, folder: Path | None, first: int, wanted: bool) -> None:
        self._writer: Any = None
        if wanted and folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(folder / FOLDER, purge_step=first)

    def write(self, epoch: dict[str, Any]) -> None:
        """Adds an epoch of metrics.json."""
        if self._writer is not None:
            for key, name in NAMES.items():
                self._writer.add_scalar(name, epoch[key], epoch["epoch"])
            self._writer.flush()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
