"""Loads data sets from folders of images, one sub-folder per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from .dataset import PARTS, Dataset
from .errors import DataError
from .preprocessing import Preprocessing
from .reader import Reader
from .search import Search, listed, visible
from .split import split

# The folders that may hold a part.
PART_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_PART_NAMES = frozenset(name for names in PART_FOLDERS.values() for name in names)
FRACTIONS = {"val": 0.1, "test": 0.1}  # of the images, for a part without its own folder

Files = tuple[list[Path], Tensor]


def load_folder(
    folder: Path,
    image_size: int,
    seed: int,
    parts: Sequence[str],
    strict: bool,
    progress: Callable[[int, int], object],
) -> Dataset:
    """Loads a data set from a folder, see `fastconv.data.load`."""
    search = Search()
    classes, files = _find_parts(folder, seed, search)
    reader = Reader(folder, Preprocessing.for_photos(image_size), strict)
    wanted = {part: files[part] for part in parts}
    total = sum(len(paths) for paths, _ in wanted.values())
    # Every image is read now, so that a broken one shows before the training, not at its end.
    images = {
        part: reader.read(part, *found, lambda: progress(reader.count, total))
        for part, found in wanted.items()
    }
    if "train" in images:
        counts = images["train"].labels.bincount(minlength=len(classes))
        if not counts.all():
            raise DataError(
                f"{folder}: no image of class {classes[int(counts.argmin())]} can be read"
            )
    return reader.dataset(classes, images, search)


def load_test_folder(
    folder: str | PathLike[str], classes: list[str], preprocessing: Preprocessing
) -> Dataset:
    """Loads all images of a folder, to test a network with.

    Args:
        folder: has a sub-folder of images for each of some of the classes. Alternatively it has a
            folder test/ with these; other images are then ignored.
        classes: the network's, in the order of its outputs.
        preprocessing: the preprocessing of the network's images.

    Returns:
        The data set with these classes and the part "test", whose images can all be read. Its
        notes name the images that were left out, and the classes without images.

    Raises:
        DataError: the folder cannot be used, or has a class that the network does not know.
    """
    folder = Path(folder)
    roots = _part_folders(folder)
    if roots and "test" not in roots:
        names = [root.name for root in roots.values()]
        raise DataError(
            f"{folder}: has {' and '.join(f'{name}/' for name in names)} but no test/; "
            f"to test with all images of one of these, name it, such as {folder / names[-1]}"
        )
    root = roots.get("test", folder)
    search = Search()
    names = _class_names(root, 1)
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise DataError(
            f"{root}: the network has no class {listed(unknown)}; its classes are {listed(classes)}"
        )
    search.pass_over_beside(folder, [root.name] if roots else names)
    paths, labels = _find_images(root, names, search)
    if not paths:
        raise DataError("; ".join([f"{root}: holds no images", *search.notes()]))
    labels = torch.tensor([classes.index(name) for name in names])[labels]
    reader = Reader(root, preprocessing)
    dataset = reader.dataset(classes, {"test": reader.read("test", paths, labels)}, search)
    counts = dataset.parts["test"].labels.bincount(minlength=len(classes)).tolist()
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if absent:
        dataset.notes.append(f"no images of {len(absent)} of the classes: {listed(absent)}")
    return dataset


def _find_parts(folder: Path, seed: int, search: Search) -> tuple[list[str], dict[str, Files]]:
    """The classes, and the files of all three parts."""
    roots = _part_folders(folder)
    if roots and "train" not in roots:
        raise DataError(f"{folder}: has {next(iter(roots.values())).name}/ but no train/")
    train = roots.get("train", folder)
    classes = _class_names(train, 2)
    used = [root.name for root in roots.values()] or classes
    search.pass_over_beside(folder, used)
    files = {}
    for part, root in (roots or {"train": folder}).items():
        _check_classes(root, classes)
        files[part] = _find_images(root, classes, search)
        counts = files[part][1].bincount(minlength=len(classes))
        if not counts.all():
            empty = root / classes[int(counts.argmin())]
            raise DataError("; ".join([f"{empty}: holds no images", *search.notes()]))
    missing = {part: FRACTIONS[part] for part in PARTS if part not in files}
    return classes, files | _cut(files["train"], missing, classes, train, seed)


def _part_folders(folder: Path) -> dict[str, Path]:
    """The folders of parts, such as train/, by part; {} without any."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    return {
        part: folder / name
        for part, names in PART_FOLDERS.items()
        for name in names
        if (folder / name).is_dir()
    }


def _cut(
    files: Files, fractions: dict[str, float], classes: list[str], folder: Path, seed: int
) -> dict[str, Files]:
    """Splits the parts that have no folder from the training images."""
    paths, labels = files
    for name, count in zip(classes, labels.bincount().tolist(), strict=True):
        if count < len(fractions) + 1:
            raise DataError(
                f"{folder / name}: {count} images are too few to take some of them for "
                f"{' and '.join(fractions)}, it needs {len(fractions) + 1}"
            )
    parts = split(labels, fractions, seed)
    return {part: ([paths[i] for i in chosen], labels[chosen]) for part, chosen in parts.items()}


def _class_names(folder: Path, least: int) -> list[str]:
    """The names of a folder's sub-folders. Raises DataError for fewer than `least`."""
    names = [name for name, is_folder in visible(folder) if is_folder]
    if len(names) < least:
        count = "at least two classes" if least == 2 else "at least one class"
        parts = " (train/, val/ and test/ are parts of a data set, not classes)"
        raise DataError(
            f"{folder}: needs a sub-folder of images for each of {count}"
            f"{parts if folder.name in _PART_NAMES else ''}"
        )
    return names


def _check_classes(folder: Path, classes: list[str]) -> None:
    """Raises DataError if a part's classes differ from the training images'."""
    names = _class_names(folder, 2)
    unknown, missing = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
    if unknown:
        raise DataError(f"{folder / unknown[0]}: there is no such class in the training images")
    if missing:
        raise DataError(f"{folder / missing[0]}: no such folder, but the training images have one")


def _find_images(folder: Path, classes: Sequence[str], search: Search) -> Files:
    """The images of every class in the order of their names."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = search.images(folder / name)
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels, dtype=torch.int64)
