"""One pass over the training images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn import Module
from torch.optim import Optimizer

from ..data import Images
from .errors import DivergedError


class EpochResult(NamedTuple):
    """The mean loss of the images as they were seen, and the speed with everything counted."""

    loss: float
    images_per_second: float


def train_epoch(
    model: Module,
    optimizer: Optimizer,
    images: Images,
    batch_size: int,
    shuffle: torch.Generator,
    device: torch.device,
    progress: Callable[[int], object] = lambda count: None,
) -> EpochResult:
    """Trains on every image once, in an order drawn from `shuffle`.

    Args:
        progress: called after every batch with its number of images.

    Raises:
        DivergedError: the loss is no longer a finite number.
    """
    model.train()
    start = time.perf_counter()
    total, seen = 0.0, 0
    for inputs, labels in images.batches(batch_size, shuffle, device):
        count = len(labels)
        if count == 1 < batch_size and seen:
            continue  # a rest of one image, which batch norm cannot be trained on
        loss = F.cross_entropy(model(inputs), labels)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(f"the training loss became {value}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += value * count
        seen += count
        progress(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return EpochResult(total / seen, seen / (time.perf_counter() - start))
