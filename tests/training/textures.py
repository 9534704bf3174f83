"""Small photographs of nothing: textures that a network has to learn, for tests of training."""

from pathlib import Path

import numpy as np
import PIL.Image

KINDS = ("bricks", "dots", "grain", "stripes")
SIDE = 64


def write(root: Path, **counts: int) -> Path:
    """Makes a folder of textures in random colors, sizes and places.

    Args:
        root: the folder.
        counts: images of each kind for each part, such as train=20.
    """
    generator = np.random.default_rng(0)
    for part, count in counts.items():
        for kind in KINDS:
            folder = root / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                PIL.Image.fromarray(_texture(kind, generator)).save(folder / f"{number}.png")
    return root


def _texture(kind: str, generator: np.random.Generator) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE] + generator.uniform(0, SIDE, (2, 1, 1))
    period = generator.uniform(8, 14)
    along, across = x % period / period, y % period / period
    if kind == "bricks":
        shift = (y // period % 2) / 2
        values = np.minimum((along + shift) % 1, across) > 0.15
    elif kind == "dots":
        values = np.hypot(along - 0.5, across - 0.5) < 0.25
    elif kind == "grain":
        values = generator.uniform(size=(SIDE, SIDE)) > 0.5
    else:
        values = along < 0.5
    dark, light = generator.uniform(0, 110, 3), generator.uniform(145, 255, 3)
    pixels = np.where(values[..., None], light, dark) + generator.normal(0, 12, (SIDE, SIDE, 3))
    return pixels.clip(0, 255).astype(np.uint8)
