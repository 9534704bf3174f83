"""Trains one epoch, which is one pass over the training images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import AugmentedImages, Images
from ..data.seeds import derived_seed, shuffled
from .schedule import rate_factor
from .settings import Settings
from .trainer import Trainer


@dataclass
class Position:
    """The progress of a run.

    Attributes:
        epoch, step: the epoch, counted from 1, and the number of its finished steps.
        loss, images: the losses' sum over the images seen in this epoch, and their number.
        correct: how many of these images were classified right, each before its step.
        seconds, waited: the time of these steps, and the part spent waiting for images.
    """

    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    images: int = 0
    correct: int = 0
    seconds: float = 0.0
    waited: float = 0.0


def batches_of_epoch(settings: Settings, count: int, epoch: int, processes: int) -> list[Tensor]:
    """The images of each step, in an order that follows from seed and epoch.

    A last batch with fewer than two images for a process is left out, since batch norm cannot be
    trained on one. It stays if it is the only batch.
    """
    chunks = list(shuffled(count, settings.seed, epoch).split(settings.batch_size))
    least = min(2 * processes, settings.batch_size)
    return chunks[:-1] if len(chunks) > 1 and len(chunks[-1]) < least else chunks


def train_epoch(
    trainer: Trainer, images: Images, position: Position, after_step: Callable[[int], object]
) -> None:
    """Trains on every image once, or on the rest of an epoch.

    All random numbers follow from the seed and the position, so a run can resume at any step.

    Args:
        trainer: takes the steps.
        images: the training images.
        position: the starting point; it advances with every step.
        after_step: called after every step with its number of images.

    Raises:
        DivergedError: the loss is no longer a finite number.
    """
    settings, ranks = trainer.settings, trainer.ranks
    chunks = batches_of_epoch(settings, len(images), position.epoch, ranks.size)
    if settings.augmentation:
        images = AugmentedImages(images, settings.augmentation, settings.seed, position.epoch)
    trainer.begin()
    rest = chunks[position.step :]
    batches = images.batches([ranks.share(chunk) for chunk in rest], trainer.device)
    start = time.perf_counter()
    for chunk, (inputs, labels) in zip(rest, batches, strict=True):
        position.waited += time.perf_counter() - start
        # Dropout's random numbers.
        numbers = (settings.seed, position.epoch, position.step, ranks.rank)
        torch.manual_seed(derived_seed(*numbers))
        factor = rate_factor(settings, position.epoch, (position.step + 1) / len(chunks))
        result = trainer.step(inputs, labels, len(chunk), factor)
        position.loss += result.loss
        position.correct += result.correct
        position.step += 1
        position.images += len(chunk)
        position.seconds += time.perf_counter() - start
        after_step(len(chunk))
        start = time.perf_counter()
