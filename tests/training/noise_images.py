"""Images that a small network tells apart at once, for tests of training."""

from pathlib import Path

import numpy as np
import PIL.Image

# `fastconv train` with these options takes no time.
TINY = ["--image-size", "8", "--batch-size", "8", "--device", "cpu"]


def write(root: Path, count: int, light: int = 150, spread: int = 100) -> Path:
    """Makes a folder with `count` images of dark noise and as many of light noise.

    Args:
        root: the folder.
        count: of images in each class.
        light: the least value in a light image; in a dark one it is 0.
        spread: between the least and the largest value of an image.
    """
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", light)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            values = generator.integers(low, low + spread, (12, 12, 3), dtype=np.uint8)
            PIL.Image.fromarray(values).save(root / name / f"{i}.png")
    return root
