"""What a training run can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data import PACKAGED
from ..models import LAYERS, MODELS
from .errors import UsageError


@dataclass
class Settings:
    """The settings of a run; the defaults train the document's CNN.

    Attributes:
        model: a name in `fastconv.models.MODELS`.
        data: "fashion-mnist" or a folder of images, see `fastconv.data.load`.
        epochs, batch_size: passes over the training images, and images in a step.
        lr, momentum: of the optimizer, SGD; the rate begins with `lr` and falls along a cosine.
        image_size: height and width of the images; None is the model's own.
        seed: of the weights, the split and the order of the images.
        device: "cpu", "cuda", ...; None is a GPU where torch has one.
        layers: "fastconv" or "torch".
        out: the run folder; None is the first free runs/<model>-<number>.

    Raises:
        UsageError: a value is out of range.
    """

    model: str = "CNN"
    data: str = PACKAGED
    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.001
    momentum: float = 0.9
    image_size: int | None = None
    seed: int = 0
    device: str | None = None
    layers: str = "fastconv"
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UsageError(f"unknown model {self.model!r}, choose one of {', '.join(MODELS)}")
        if self.layers not in LAYERS:
            raise UsageError(f"unknown layers {self.layers!r}, choose one of {', '.join(LAYERS)}")
        if self.image_size is None:
            self.image_size = MODELS[self.model].image_size
        for name in ("epochs", "batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < float("inf"):
            raise UsageError(f"lr must be above 0, got {self.lr}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must be between 0 and 2**63 - 1, got {self.seed}")


def find_device(name: str | None) -> torch.device:
    """The device of that name; None is a GPU where torch has one, else the CPU.

    Raises:
        UsageError: torch does not know it or cannot use it here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from None
    return device
