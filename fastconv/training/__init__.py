"""Training, evaluation and prediction as functions, which the command `fastconv` calls."""

from __future__ import annotations

from .checkpoint import Description, load_checkpoint, save_checkpoint
from .errors import DivergedError, TrainingError, UsageError
from .evaluate import evaluate
from .predict import predict
from .scores import Scores
from .settings import Settings
from .train import resume, train
from .weights import Weights, load_pretrained, read_weights

__all__ = [
    "Description",
    "DivergedError",
    "Scores",
    "Settings",
    "TrainingError",
    "UsageError",
    "Weights",
    "evaluate",
    "load_checkpoint",
    "load_pretrained",
    "predict",
    "read_weights",
    "resume",
    "save_checkpoint",
    "train",
]
