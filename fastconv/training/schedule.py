"""The learning rate over a run."""

from __future__ import annotations

import math

from .settings import Settings


def rate_factor(settings: Settings, epoch: int, share: float) -> float:
    """What a learning rate at the start is multiplied with.

    Args:
        settings: of these `schedule`, `epochs`, `decay_every`, `decay_factor` and `warmup`.
        epoch: the first is 1. The rate falls from epoch to epoch; along a cosine to 0 after the
            last (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).
        share: of the epoch's steps that are done with this one, for the warm-up, which is linear.
    """
    done = epoch - 1
    if settings.schedule == "cosine":
        factor = (1 + math.cos(math.pi * done / settings.epochs)) / 2
    elif settings.schedule == "step":
        factor = settings.decay_factor ** (done // settings.decay_every)
    else:
        factor = 1.0
    if done + share < settings.warmup:
        factor *= (done + share) / settings.warmup
    return factor
