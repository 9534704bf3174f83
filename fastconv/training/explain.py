"""Draws explanations: an image beside a heat map of the evidence for its class."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import Module

from ..data import Preprocessing
from ..data.preprocessing import to_input
from .errors import UsageError
from .figures import label, new_figure, save_figure
from .heat_map import heat_map, overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 448  # pixels of a drawn picture, for every image size of the network
_LONGEST = 200  # bytes of an image's name in its picture's; file systems allow 255
_EVIDENCE = "what speaks for this class, the brighter the more"
_NO_EVIDENCE = "no evidence: no part of the picture speaks for this class"


@dataclass(frozen=True)
class Answer:
    """A network's answer for an image: the class by index and name, and its probability."""

    index: int
    name: str
    probability: float


def explain(
    model: Module,
    path: str | PathLike[str],
    preprocessing: Preprocessing,
    answer: Answer,
    device: torch.device | str = "cpu",
) -> Figure:
    """Draws an image beside a heat map of the evidence for a class, under the class's name.

    Args:
        model: in evaluation mode, on `device`.
        path, preprocessing: the image; the part that the network sees is drawn.
        answer: the explained class. Without evidence for it, the picture says so.

    Raises:
        fastconv.data.DataError: the image cannot be read.
        ValueError: the network has no feature maps, see `heat_map`.
    """
    import PIL.Image

    pixels = preprocessing.read(path)
    x = to_input(pixels.unsqueeze(0).to(device), preprocessing.image_size)
    heat = heat_map(model, x, answer.index)
    shown = Preprocessing(_SIDE, round(_SIDE * preprocessing.resize / preprocessing.image_size))
    picture = PIL.Image.fromarray(shown.read(path).permute(1, 2, 0).contiguous().numpy())
    title = _EVIDENCE if heat.any() else _NO_EVIDENCE
    figure = new_figure(8, 4.6)
    figure.suptitle(f"{label(answer.name, 60)} {answer.probability:.1%}", fontsize="x-large")
    for axes, image, text in zip(
        figure.subplots(1, 2),
        (picture, overlay(picture, heat)),
        ("the part that the network sees", title),
        strict=True,
    ):
        axes.imshow(np.asarray(image))
        axes.set_title(text, fontsize="small")
        axes.axis("off")
    return figure


class Explanations:
    """A folder of explanations, each named after its image.

    Args:
        folder: is created if it does not exist.

    Raises:
        UsageError: the folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: Counter[str] = Counter()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: cannot make the folder ({error.strerror})") from None

    def draw(
        self,
        model: Module,
        path: Path,
        preprocessing: Preprocessing,
        answer: Answer,
        device: torch.device | str = "cpu",
    ) -> Path:
        """Draws an explanation (see `explain`). Images of the same name get numbers.

        Raises:
            UsageError: the network has no feature maps to explain the class with.
        """
        stem = os.fsdecode(os.fsencode(path.stem)[:_LONGEST])
        self._names[stem] += 1
        number = self._names[stem]
        target = self.folder / (f"{stem}-{number}.png" if number > 1 else f"{stem}.png")
        try:
            figure = explain(model, path, preprocessing, answer, device)
        except ValueError as error:
            raise UsageError(f"{path}: cannot be explained ({error})") from None
        save_figure(target, figure)
        return target
