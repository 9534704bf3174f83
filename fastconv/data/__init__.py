"""Loads training data: the packaged Fashion-MNIST subset, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .augmentation import Augmentation, AugmentedImages
from .dataset import PACKAGED, PARTS, Dataset
from .errors import DataError
from .folder import load_folder, load_test_folder
from .images import FileImages, Images, MemoryImages
from .packaged import load_packaged
from .preprocessing import Preprocessing

__all__ = [
    "PACKAGED",
    "Augmentation",
    "AugmentedImages",
    "DataError",
    "Dataset",
    "FileImages",
    "Images",
    "MemoryImages",
    "Preprocessing",
    "load",
    "load_test_folder",
]


def load(
    source: str | os.PathLike[str] = PACKAGED,
    image_size: int = 112,
    seed: int = 0,
    parts: Sequence[str] = PARTS,
    strict: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Dataset:
    """Loads a data set.

    Args:
        source: "fashion-mnist", or a folder with a sub-folder of images for each class. The folder
            may instead hold such folders as train/, val/ and test/; a part without one is a tenth
            of every class of the training images.
        image_size: height and width of the images.
        seed: decides which images become validation and test images.
        parts: the needed ones among "train", "val" and "test".
        strict: an image that cannot be read is an error; else it is left out, and `skipped` and
            `notes` say so.
        progress: called repeatedly with the number of images read and the number of all images.

    Returns:
        The data set with the parts asked for.

    Raises:
        DataError: the folder, or with `strict` an image, cannot be used. The message names it.
    """
    if os.fspath(source) == PACKAGED:
        return load_packaged(image_size, seed, parts)
    return load_folder(Path(source), image_size, seed, parts, strict, progress)
