"""The schedule of the learning rate over a run."""

from __future__ import annotations

import math

from .settings import Settings


def rate_factor(settings: Settings, epoch: int, share: float) -> float:
    """The factor of the learning rate, relative to its initial value.

    The rate falls from epoch to epoch. The cosine schedule ends at 0 after the last epoch
    (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts). The warm-up is linear.

    Args:
        settings: uses `schedule`, `epochs`, `decay_every`, `decay_factor` and `warmup`.
        epoch: counted from 1.
        share: the share of the epoch's steps that are done after this one, for the warm-up.
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
