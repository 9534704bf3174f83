"""Loads the packaged data set: 5,000 + 1,000 images of Fashion-MNIST."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .dataset import PACKAGED, Dataset
from .images import MemoryImages
from .preprocessing import Preprocessing
from .split import split

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
VAL_FRACTION = 0.1

_FOLDER = Path(__file__).parent / "fashion_mnist"


def load_packaged(image_size: int, seed: int, parts: Sequence[str]) -> Dataset:
    """Loads Fashion-MNIST, see `fastconv.data.load`. Images fill the frame and are not cropped."""
    images = _read("train", image_size)
    found = {
        part: MemoryImages(images.pixels[chosen], images.labels[chosen], image_size)
        for part, chosen in split(images.labels, {"val": VAL_FRACTION}, seed).items()
    }
    found["test"] = _read("test", image_size)
    wanted = {part: found[part] for part in parts}
    preprocessing = Preprocessing(image_size, resize=image_size)
    return Dataset(PACKAGED, list(CLASSES), wanted, preprocessing, _fingerprint(wanted))


def _fingerprint(parts: dict[str, MemoryImages]) -> str:
    digest = hashlib.sha256()
    for part, images in parts.items():
        digest.update(part.encode())
        digest.update(images.pixels.numpy().data)
        digest.update(images.labels.numpy().data)
    return digest.hexdigest()[:16]


def _read(name: str, image_size: int) -> MemoryImages:
    with np.load(_FOLDER / f"{name}.npz") as file:
        pixels = torch.from_numpy(file["images"]).unsqueeze(1)
        labels = torch.from_numpy(file["labels"]).long()
    return MemoryImages(pixels, labels, image_size)
