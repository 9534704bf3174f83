"""Errors of training, evaluation and prediction, each with a one-line message."""

from .._shown import shown


class TrainingError(Exception):
    """Training, evaluation or prediction cannot continue."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class UsageError(TrainingError):
    """A setting is invalid, or a run folder or checkpoint cannot be used."""


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""
