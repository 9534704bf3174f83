"""The recipe: epochs, batch size and learning rates for settings that are not given."""

from __future__ import annotations

import dataclasses
import math

from ..data import PACKAGED
from .settings import Settings

EPOCHS, BATCH, LR = 10, 64, 0.001  # the document's
# Fewer images are seen more often, in smaller batches, with a higher rate. Steps times rate is the
# same for all but the smallest and the largest data sets.
MOST_EPOCHS, LEAST_BATCH, HIGHEST_LR = 60, 8, 0.01
MOST_FINE_TUNING_EPOCHS = 20  # pretrained layers need fewer
PASSES = 20_000  # images seen in all epochs together
STEPS = 1_000  # in all epochs together
ENOUGH_STEPS = 10_000  # for the document's rate
# Warm-up and clipping keep ReLUs alive in the first steps of rates above the document's. Batch norm
# does so itself, and clipping its large gradients would slow it down.
CLIP = 0.5
WARMUP = 0.1  # of the epochs


def resolved(
    settings: Settings, images: int, processes: int = 1, batch_norm: bool = False
) -> Settings:
    """The same settings, with a value wherever the recipe decides.

    Given values stay, and the others follow from them: the learning rate from the number of steps;
    the rate of all but the last layer, clipping and warm-up from the learning rate.

    Args:
        settings: may have None in `epochs`, `batch_size`, `lr`, `backbone_lr`, `clip`, `warmup`.
        images: the number of training images.
        processes: the number of processes that share each batch.
        batch_norm: whether the network has batch norm.
    """
    document = settings.recipe == "document" or settings.data == PACKAGED
    epochs, batch_size, lr = settings.epochs, settings.batch_size, settings.lr
    backbone_lr, clip, warmup = settings.backbone_lr, settings.clip, settings.warmup
    if epochs is None:
        epochs = EPOCHS if document else _epochs(settings, images)
    if batch_size is None:
        parts = settings.accumulate * processes
        batch_size = BATCH if document else _batch_size(epochs * images, parts)
    if lr is None:
        lr = LR if document else _lr(epochs * math.ceil(images / batch_size))
    if backbone_lr is None and settings.weights is not None and not settings.freeze:
        backbone_lr = min(lr, LR)
    is_high = not document and lr > LR
    if clip is None and is_high and not batch_norm:
        clip = CLIP
    if warmup is None:
        # Other schedules do not depend on the number of epochs, which may be raised later.
        warmup = round(WARMUP * epochs, 1) if is_high and settings.schedule == "cosine" else 0.0
    return dataclasses.replace(
        settings,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        backbone_lr=backbone_lr,
        clip=clip,
        warmup=warmup,
    )


def _epochs(settings: Settings, images: int) -> int:
    most = MOST_EPOCHS if settings.weights is None else MOST_FINE_TUNING_EPOCHS
    return min(most, max(EPOCHS, PASSES // images))


def _batch_size(seen: int, parts: int) -> int:
    """A power of two. Each part of a batch has at least two images, which batch norm needs."""
    fitting = 2 ** int(math.log2(max(1, seen / STEPS)))
    return max(2 * parts, min(BATCH, max(LEAST_BATCH, fitting)))


def _lr(steps: int) -> float:
    lr = min(HIGHEST_LR, max(LR, LR * ENOUGH_STEPS / steps))
    return float(f"{lr:.2g}")  # easy to read and to type
