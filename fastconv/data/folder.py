"""Data sets in folders of images, one sub-folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .dataset import PARTS, Dataset
from .errors import DataError
from .images import FileImages, Images
from .preprocessing import Preprocessing
from .split import split

# The folders that may hold a part.
PART_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FRACTIONS = {"val": 0.1, "test": 0.1}  # of the images, where a part has no folder of its own
MEMORY_LIMIT = 2**30  # bytes of decoded images kept in memory

Files = tuple[list[Path], Tensor]


def load_folder(folder: Path, image_size: int, seed: int, parts: Sequence[str]) -> Dataset:
    """See `fastconv.data.load`."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    classes, files = _find_parts(folder, seed)
    preprocessing = Preprocessing.for_photos(image_size)
    wanted = {part: FileImages(*files[part], preprocessing) for part in parts}
    # Every image is read now: a broken one shall show before the training, not at its end.
    size = sum(len(images) for images in wanted.values()) * 3 * image_size**2
    loaded: dict[str, Images] = {}
    for part, images in wanted.items():
        if size <= MEMORY_LIMIT:
            loaded[part] = images.in_memory()
        else:
            images.check()
            loaded[part] = images
    return Dataset(str(folder.resolve()), classes, loaded, preprocessing)


def _find_parts(folder: Path, seed: int) -> tuple[list[str], dict[str, Files]]:
    """The classes, and the files of all three parts."""
    roots = {
        part: folder / name
        for part, names in PART_FOLDERS.items()
        for name in names
        if (folder / name).is_dir()
    }
    if roots and "train" not in roots:
        raise DataError(f"{folder}: has {next(iter(roots.values())).name}/ but no train/")
    train = roots.get("train", folder)
    classes = _class_names(train)
    files = {part: _find_images(root, classes) for part, root in roots.items()}
    if "train" not in files:
        files["train"] = _find_images(train, classes)
    missing = {part: FRACTIONS[part] for part in PARTS if part not in files}
    return classes, files | _cut(files["train"], missing, classes, train, seed)


def _cut(
    files: Files, fractions: dict[str, float], classes: list[str], folder: Path, seed: int
) -> dict[str, Files]:
    """Takes the parts that have no folder from the training images."""
    paths, labels = files
    for name, count in zip(classes, labels.bincount().tolist(), strict=True):
        if count < len(fractions) + 1:
            raise DataError(
                f"{folder / name}: {count} images are too few to take some of them for "
                f"{' and '.join(fractions)}, it needs {len(fractions) + 1}"
            )
    parts = split(labels, fractions, seed)
    return {part: ([paths[i] for i in chosen], labels[chosen]) for part, chosen in parts.items()}


def _class_names(folder: Path) -> list[str]:
    names = sorted(
        child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != "."
    )
    if len(names) < 2:
        raise DataError(f"{folder}: needs a sub-folder for each of at least two classes")
    return names


def _find_images(folder: Path, classes: list[str]) -> Files:
    """The image files of every class in the order of their names."""
    unknown = set(_class_names(folder)) - set(classes)
    if unknown:
        raise DataError(f"{folder / min(unknown)}: there is no such class in the training images")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            raise DataError(f"{folder / name}: no such folder, but the training images have one")
        found = sorted(
            path
            for path in (folder / name).iterdir()
            if path.suffix.lower() in SUFFIXES and path.name[0] != "."
        )
        if not found:
            raise DataError(f"{folder / name}: holds no images")
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels)
