"""The class of a single image."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from ..data import Preprocessing
from ..data.preprocessing import to_input


@torch.inference_mode()
def predict(
    model: Module, path: Path, preprocessing: Preprocessing, device: torch.device | str = "cpu"
) -> Tensor:
    """The probability of every class, float [classes], for an image file.

    Raises:
        fastconv.data.DataError: the file cannot be read.
    """
    pixels = preprocessing.read(path).unsqueeze(0).to(device)
    return model(to_input(pixels, preprocessing.image_size)).softmax(dim=1)[0].cpu()
