"""Pictures of what in an image made a network say so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import Module

from ..data import Preprocessing
from ..data.preprocessing import to_input
from .heat_map import heat_map, overlay

if TYPE_CHECKING:
    from PIL.Image import Image


def explain(
    model: Module,
    path: Path,
    preprocessing: Preprocessing,
    label: int,
    device: torch.device | str = "cpu",
) -> Image:
    """What the network saw of an image file, with a heat map of what speaks for a class.

    Args:
        model: in evaluation mode, on `device`.
        path, preprocessing: the image.
        label: the class's index.

    Raises:
        fastconv.data.DataError: the file cannot be read.
        ValueError: the network has no feature maps, see `heat_map`.
    """
    import PIL.Image

    pixels = preprocessing.read(path)
    x = to_input(pixels.unsqueeze(0).to(device), preprocessing.image_size)
    image = PIL.Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return overlay(image, heat_map(model, x, label))


class Explanations:
    """Explanations of many images in a folder, each named after its image.

    Args:
        folder: is made where it is not there.
        model, preprocessing, device: as for `explain`.
    """

    def __init__(
        self,
        folder: Path,
        model: Module,
        preprocessing: Preprocessing,
        device: torch.device | str = "cpu",
    ) -> None:
        self.folder = folder
        self._network = (model, preprocessing, device)
        self._names: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, path: Path, label: int) -> Path:
        """Draws what speaks for a class; images of the same name get numbers."""
        model, preprocessing, device = self._network
        self._names[path.stem] += 1
        number = self._names[path.stem]
        target = self.folder / (f"{path.stem}-{number}.png" if number > 1 else f"{path.stem}.png")
        explain(model, path, preprocessing, label, device).save(target)
        return target
