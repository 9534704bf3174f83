"""Preprocesses an image file into a network's input."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
LONGEST = 3  # largest ratio of a picture's longer side to its shorter one; the rest is cut off


@dataclass(frozen=True)
class Preprocessing:
    """Resizes the shorter side to `resize` pixels and keeps the middle `image_size`."""

    image_size: int
    resize: int

    @classmethod
    def for_photos(cls, image_size: int) -> Preprocessing:
        """Resize 256 and center crop 224, in proportion to `image_size`."""
        return cls(image_size, round(image_size * 256 / 224))

    def frame(self, path: str | PathLike[str]) -> Image:
        """The picture in a file as RGB, its shorter side `resize` pixels, the longer one limited.

        Gray, palette and CMYK images become RGB, and transparent pixels become white. Gray values
        that are not bytes are scaled to the smallest usual range that holds them: up to 1 in
        floats, 255 or 65,535.

        Raises:
            DataError: the file is missing, corrupt, truncated or not an image.
        """
        import PIL.Image
        from PIL import UnidentifiedImageError

        try:
            with PIL.Image.open(path) as image:
                # A JPEG decoder may halve the size. At twice the needed size no detail is lost.
                width, height = self._resized(image)
                image.draft(None, (2 * width, 2 * height))
                return self._shrink(_upright_rgb(image))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except Exception as error:  # Pillow's decoders raise almost anything for broken files
            why = (
                "an unknown format"
                if isinstance(error, UnidentifiedImageError)
                else _one_line(error)
            )
            raise DataError(f"{path}: not a readable image ({why})") from None

    def crop(self, frame: Image) -> Tensor:
        """The pixels in the middle of a `frame`, uint8 [3, image_size, image_size]."""
        left, top = (round((side - self.image_size) / 2) for side in frame.size)
        return to_pixels(frame.crop((left, top, left + self.image_size, top + self.image_size)))

    def read(self, path: str | PathLike[str]) -> Tensor:
        """The pixels of an image file, uint8 [3, image_size, image_size].

        Raises:
            DataError: as for `frame`.
        """
        return self.crop(self.frame(path))

    def _resized(self, image: Image) -> list[int]:
        return [max(1, int(self.resize * side / min(image.size))) for side in image.size]

    def _shrink(self, image: Image) -> Image:
        """Resizes and cuts in one step, so a very long image costs no more than others."""
        import PIL.Image

        resized = self._resized(image)
        kept = [min(side, LONGEST * self.resize) for side in resized]
        start, end = [], []
        for side, new_side, kept_side in zip(image.size, resized, kept, strict=True):
            margin = round((new_side - kept_side) / 2)
            scale = side / new_side
            start.append(margin * scale)
            end.append((margin + kept_side) * scale)
        box = start[0], start[1], end[0], end[1]
        return image.resize(kept, PIL.Image.Resampling.BILINEAR, box=box)


def to_pixels(image: Image) -> Tensor:
    """A gray or RGB picture as uint8 [1 or 3, H, W]."""
    values = torch.from_numpy(np.array(image))
    return (values.unsqueeze(2) if values.dim() == 2 else values).permute(2, 0, 1).contiguous()


def _upright_rgb(image: Image) -> Image:
    """The image as RGB, turned as its EXIF data says."""
    import PIL.Image

    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = PIL.Image.fromarray(_to_bytes(np.asarray(image)))
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image.convert("RGB")


def _upright(image: Image) -> Image:
    """Turns the image. Pillow's exif_transpose fails if it cannot write the EXIF data again."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    image.load()
    try:
        turn = turns.get(image.getexif().get(Base.Orientation, 1))
    except Exception:  # EXIF data may be anything
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Gray integers or floats as uint8; Pillow would clip them at 255."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 0xFFFF):  # also true for NaN
        raise ValueError(f"gray values from {low} to {high}, expected 0 to 65535")
    if high > 255:
        values = values / 256
    elif values.dtype.kind == "f":
        values = np.rint(values * 255 if high <= 1 else values)
    return values.astype(np.uint8)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def to_input(pixels: Tensor, image_size: int) -> Tensor:
    """Makes a network's input of pixels: resized if needed, three channels, normalized.

    Args:
        pixels: uint8 [N, 1 or 3, H, W].
        image_size: height and width of the result.

    Returns:
        float32 [N, 3, image_size, image_size].
    """
    size = (image_size, image_size)
    values = pixels
    if tuple(values.shape[2:]) != size:
        values = F.interpolate(values.float(), size, mode="bilinear", antialias=True)
    dtype, device = torch.float32, pixels.device
    mean, std = (torch.tensor(v, dtype=dtype, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return torch.mul(values, 1 / (255 * std)).sub_(mean / std)  # one new tensor
