"""Judges whether a test shows that a network has learned anything, and gives advice."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from .recipe import resolved
from .settings import Settings

CHANCE = (
    0.05  # a result that always naming one class reaches with a higher probability proves nothing
)
_NORMAL = 1.96  # standard deviations that hold 95 % of a normal distribution


def doubt(confusion: Tensor, classes: list[str]) -> str | None:
    """The reason to doubt a network, printed behind its accuracy; None without one.

    Images of a single class give no reason.

    Args:
        confusion: int64 [classes, classes]; rows are the true classes, columns the predicted ones.
        classes: their names.
    """
    images, correct = int(confusion.sum()), int(confusion.trace())
    count, commonest = (int(value) for value in confusion.sum(dim=1).max(dim=0))
    if count == images:
        return None
    predicted = confusion.sum(dim=0).nonzero().flatten().tolist()
    if len(predicted) == 1:
        return f"all {images} test images were called {classes[predicted[0]]}"
    always = f"calling all {images} test images {classes[commonest]}"
    if correct <= count:
        return f"no better than {always} ({count / images:.1%})"
    if correct < images and _chance_of_as_many(correct, images, count / images) > CHANCE:
        return f"which may be chance: {always} gives {count / images:.1%}"
    return None


def advice(settings: Settings, images: int, processes: int = 1) -> str:
    """A suggestion for a better network.

    Args:
        settings: the run's settings, with all values.
        images: the number of training images.
        processes: the number of processes that shared each batch.
    """
    open_values = dict(recipe="automatic", epochs=None, batch_size=None, lr=None)
    usual = resolved(dataclasses.replace(settings, **open_values), images, processes)
    changes = {
        "epochs": settings.epochs < usual.epochs,
        "batch-size": settings.batch_size > usual.batch_size,
        "lr": settings.lr != usual.lr,
    }
    if any(changes.values()):
        named = (name for name, changed in changes.items() if changed)
        values = (f"--{name} {getattr(usual, name.replace('-', '_'))}" for name in named)
        return f"try {' '.join(values)}, the recipe for {images} images"
    if settings.weights is None:
        return "try to start from pretrained weights, --model squeezenet1_1 --weights FILE --freeze"
    return "try more training images"


def interval(correct: int, images: int) -> tuple[float, float]:
    """The interval of the true accuracy with 95 % confidence (Wilson 1927)."""
    share, spread = correct / images, _NORMAL**2 / images
    middle = share + spread / 2
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return (middle - reach) / (1 + spread), (middle + reach) / (1 + spread)


def _chance_of_as_many(correct: int, images: int, share: float) -> float:
    """The probability that guesses, right with probability `share`, reach `correct` or more."""
    guesses = torch.distributions.Binomial(images, torch.tensor(share, dtype=torch.float64))
    return float(guesses.log_prob(torch.arange(correct, images + 1)).exp().sum())
