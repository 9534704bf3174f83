"""Predicts the classes of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from ..data import DataError, Preprocessing
from ..data.images import read_ahead
from ..data.preprocessing import to_input
from ..data.search import Search

BATCH = 16  # images per batch


def predict(
    model: Module,
    path: str | PathLike[str],
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The probability of every class, float [classes], for an image file.

    Args:
        model: in evaluation mode, on `device`.
        path: the image file.
        preprocessing: the network's, `Description.preprocessing`.
        device: the model's device.

    Raises:
        fastconv.data.DataError: the file cannot be read.
    """
    ((_, result),) = predict_files(model, [path], preprocessing, device)
    if isinstance(result, DataError):
        raise result
    return result


def predict_files(
    model: Module,
    paths: Iterable[str | PathLike[str]],
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Path, Tensor | DataError]]:
    """Each image file's class probabilities, float [classes], or its DataError."""

    def read(path: Path) -> Tensor | DataError:
        try:
            return preprocessing.read(path)
        except DataError as error:
            return error

    files = [Path(path) for path in paths]
    chunks = [files[i : i + BATCH] for i in range(0, len(files), BATCH)]
    for chunk, found in zip(chunks, read_ahead(chunks, read), strict=True):
        good = [pixels for pixels in found if isinstance(pixels, Tensor)]
        rows = iter(_probabilities(model, good, preprocessing, device) if good else ())
        for path, result in zip(chunk, found, strict=True):
            yield path, next(rows) if isinstance(result, Tensor) else result


@torch.inference_mode()
def _probabilities(
    model: Module, pixels: list[Tensor], preprocessing: Preprocessing, device: torch.device | str
) -> Tensor:
    inputs = to_input(torch.stack(pixels).to(device), preprocessing.image_size)
    return model(inputs).float().softmax(dim=1).cpu()


def find_images(
    paths: Iterable[str | PathLike[str]], log: Callable[[str], object] = lambda line: None
) -> list[Path]:
    """Files as given, and for a folder all images in it and below, by name.

    Args:
        paths: files and folders.
        log: gets lines about the files that were passed over in folders.

    Raises:
        fastconv.data.DataError: a folder holds none.
    """
    found: list[Path] = []
    search = Search()
    for path in map(Path, paths):
        inside = search.images_below(path) if path.is_dir() else [path]
        if not inside:
            raise DataError("; ".join([f"{path}: holds no images", *search.notes()]))
        found += inside
    for line in search.notes():
        log(line)
    return found
