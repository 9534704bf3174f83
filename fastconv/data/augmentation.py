"""Changes training images at random. Seed, epoch and image decide the changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .images import Images, in_threads
from .preprocessing import to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

ASPECTS = (3 / 4, 4 / 3)  # of a random crop, width to height
TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """Rotation, crop, flip and colour, in this order.

    Attributes:
        rotation: the largest angle in degrees, either way. Uncovered corners are black.
        crop: the least share of the picture's area that a random crop takes, as in Szegedy et al.
            2015 (arXiv 1409.4842), section 6. 1 is the center crop of validation.
        flip: half of the pictures are mirrored, left to right.
        colour: the largest change of brightness, contrast and saturation, as a share either way.
    """

    rotation: float = 0.0
    crop: float = 1.0
    flip: bool = False
    colour: float = 0.0

    def __bool__(self) -> bool:
        return self != Augmentation()

    def apply(self, picture: Image, zoom: float, size: int, random: np.random.Generator) -> Tensor:
        """A changed picture's pixels, uint8 [1 or 3, size, size].

        Args:
            picture: a whole picture, gray or RGB.
            zoom: the share of the shorter side that validation keeps.
            size: height and width of the result.
            random: the source of all random numbers.
        """
        import PIL.Image

        left, top, width, height = self._region(picture.size, zoom, random)
        if self.rotation:
            picture = picture.rotate(
                random.uniform(-self.rotation, self.rotation),
                PIL.Image.Resampling.BILINEAR,
                center=(left + width / 2, top + height / 2),
            )
        box = (left, top, left + width, top + height)
        picture = picture.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box)
        if self.flip and random.random() < 0.5:
            picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colour:
            picture = self._recolour(picture, random)
        return to_pixels(picture)

    def _region(
        self, sides: tuple[int, int], zoom: float, random: np.random.Generator
    ) -> tuple[float, float, float, float]:
        """Left, top, width and height of the region that is kept."""
        width, height = sides
        if self.crop < 1:
            for _ in range(TRIES):
                area = width * height * random.uniform(self.crop, 1)
                aspect = math.exp(random.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
                w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
                if w <= width and h <= height:
                    return random.uniform(0, width - w), random.uniform(0, height - h), w, h
        side = min(sides) * zoom
        return (width - side) / 2, (height - side) / 2, side, side

    def _recolour(self, picture: Image, random: np.random.Generator) -> Image:
        from PIL import ImageEnhance

        changes = [ImageEnhance.Brightness, ImageEnhance.Contrast]
        if picture.mode == "RGB":
            changes.append(ImageEnhance.Color)
        for change in changes:
            picture = change(picture).enhance(random.uniform(1 - self.colour, 1 + self.colour))
        return picture


class AugmentedImages(Images):
    """Images with the random changes of one epoch."""

    def __init__(self, images: Images, augmentation: Augmentation, seed: int, epoch: int) -> None:
        super().__init__(images.labels, images.image_size)
        self.images = images
        self.augmentation = augmentation
        self.zoom = images.zoom
        self._numbers = (seed, epoch)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def frame(self, index: int) -> Image:
        return self.images.frame(index)

    def _pixels(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        return in_threads(chunks, self._read)

    def _read(self, index: int) -> Tensor:
        random = np.random.default_rng([*self._numbers, index])
        return self.augmentation.apply(self.frame(index), self.zoom, self.image_size, random)
