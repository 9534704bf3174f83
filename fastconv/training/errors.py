"""What goes wrong around training, each with a one-line message."""

from .._shown import shown


class TrainingError(Exception):
    """Training, evaluation or prediction cannot go on."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class UsageError(TrainingError):
    """A setting that makes no sense, or a run folder or checkpoint that cannot be used."""


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""
