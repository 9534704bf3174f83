"""Derives random numbers from seed, epoch and step, so a run resumes as if never stopped."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def derived_seed(*numbers: int) -> int:
    """A seed below 2**63 that is derived from numbers >= 0, such as seed, epoch and step."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The indices below `count` in the random order of an epoch, int64 [count]."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(count, generator=generator)
