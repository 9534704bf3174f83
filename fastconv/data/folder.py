"""Data sets in folders of images, one sub-folder a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .dataset import PARTS, Dataset
from .errors import DataError
from .images import FileImages, read_ahead
from .preprocessing import Preprocessing
from .split import split

if TYPE_CHECKING:
    from PIL.Image import Image

# The folders that may hold a part.
PART_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
FRACTIONS = {"val": 0.1, "test": 0.1}  # of the images, where a part has no folder of its own
MEMORY_LIMIT = 2**31  # bytes of pictures kept in memory
LISTED = 10  # files that cannot be read, of which each gets a line

Files = tuple[list[Path], Tensor]


def load_folder(
    folder: Path,
    image_size: int,
    seed: int,
    parts: Sequence[str],
    strict: bool,
    progress: Callable[[int, int], object],
) -> Dataset:
    """See `fastconv.data.load`."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    passed_over: Counter[str] = Counter()
    classes, files = _find_parts(folder, seed, passed_over)
    reader = _Reader(Preprocessing.for_photos(image_size), strict)
    wanted = {part: files[part] for part in parts}
    total = sum(len(paths) for paths, _ in wanted.values())
    # Every image is read now: a broken one shall show before the training, not at its end.
    images = {
        part: reader.read(*found, lambda: progress(reader.count, total))
        for part, found in wanted.items()
    }
    for part, found in images.items():
        counts = found.labels.bincount(minlength=len(classes))
        if part == "train" and not counts.all():
            raise DataError(
                f"{folder}: no image of class {classes[int(counts.argmin())]} can be read"
            )
        if not len(found):
            raise DataError(f"{folder}: no {part} image can be read")
    return Dataset(
        str(folder.resolve()),
        classes,
        images,
        reader.preprocessing,
        reader.skipped,
        _notes(reader.skipped, passed_over),
    )


class _Reader:
    """Reads all pictures once, keeps as many as the memory may hold, and notes the broken ones."""

    def __init__(self, preprocessing: Preprocessing, strict: bool) -> None:
        self.preprocessing = preprocessing
        self.strict = strict
        self.skipped: list[str] = []
        self.count = 0
        self._room = MEMORY_LIMIT

    def read(self, paths: list[Path], labels: Tensor, progress: Callable[[], object]) -> FileImages:
        """Those of the images that can be read. Raises DataError for the others if `strict`."""
        good: list[int] = []
        kept: list[Image | None] = []
        seen = 0
        chunks = (paths[i : i + 64] for i in range(0, len(paths), 64))
        for pictures in read_ahead(chunks, self._frame):
            for picture in pictures:
                if not isinstance(picture, DataError):
                    good.append(seen)
                    kept.append(self._keep(picture))
                elif self.strict:
                    raise picture
                else:
                    self.skipped.append(str(picture))
                seen += 1
            self.count += len(pictures)
            progress()
        return FileImages([paths[i] for i in good], labels[good], self.preprocessing, kept)

    def _keep(self, picture: Image) -> Image | None:
        size = 3 * picture.width * picture.height
        if size > self._room:
            return None
        self._room -= size
        return picture

    def _frame(self, path: Path) -> Image | DataError:
        try:
            return self.preprocessing.frame(path)
        except DataError as error:
            return error


def _notes(skipped: list[str], passed_over: Counter[str]) -> list[str]:
    notes = []
    if skipped:
        notes.append(f"left out {len(skipped)} that cannot be read:")
        notes += [f"  {text}" for text in skipped[:LISTED]]
        if len(skipped) > LISTED:
            notes.append(f"  and {len(skipped) - LISTED} more, see metrics.json")
    if passed_over:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed_over.items()))
        notes.append(f"passed over files that Pillow does not read: {kinds}")
    return notes


def _find_parts(
    folder: Path, seed: int, passed_over: Counter[str]
) -> tuple[list[str], dict[str, Files]]:
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
    files = {part: _find_images(root, classes, passed_over) for part, root in roots.items()}
    if "train" not in files:
        files["train"] = _find_images(train, classes, passed_over)
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


def _find_images(folder: Path, classes: list[str], passed_over: Counter[str]) -> Files:
    """The image files of every class in the order of their names; counts the others by suffix."""
    suffixes = image_suffixes()
    unknown = set(_class_names(folder)) - set(classes)
    if unknown:
        raise DataError(f"{folder / min(unknown)}: there is no such class in the training images")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            raise DataError(f"{folder / name}: no such folder, but the training images have one")
        files = sorted(path for path in (folder / name).iterdir() if path.name[0] != ".")
        found = [path for path in files if path.suffix.lower() in suffixes]
        others = (path for path in files if path.suffix.lower() not in suffixes and path.is_file())
        passed_over.update(path.suffix.lower() or path.name for path in others)
        if not found:
            raise DataError(f"{folder / name}: holds no images")
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels)


def image_suffixes() -> set[str]:
    """Of the files that Pillow opens."""
    import PIL.Image

    formats = PIL.Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name in PIL.Image.OPEN}
