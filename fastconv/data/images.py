"""Makes batches of labelled images in memory or in files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .preprocessing import Preprocessing, to_input

if TYPE_CHECKING:
    from PIL.Image import Image

Batch = tuple[Tensor, Tensor]


class Images(ABC):
    """Labelled images of one size.

    Attributes:
        labels: int64 [len(self)], indices into the data set's classes.
        image_size: height and width of the images in `batches`.
        zoom: the share of a picture's shorter side that `batches` keeps.
    """

    zoom = 1.0

    def __init__(self, labels: Tensor, image_size: int) -> None:
        self.labels = labels
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """An image's name, which is its file's path if it has a file."""

    @abstractmethod
    def frame(self, index: int) -> Image:
        """The whole picture, upright, gray or RGB, of a moderate size.

        Raises:
            DataError: its file has changed.
        """

    @abstractmethod
    def _pixels(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Each chunk's pixels, uint8 [n, 1 or 3, H, W]."""

    def batches(
        self, chunks: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """Batches as (float32 [n, 3, image_size, image_size], int64 [n]).

        Args:
            chunks: the indices of each batch's images, int64 [n].
            device: the device of the batches.
        """
        for chunk, pixels in zip(chunks, self._pixels(chunks), strict=True):
            yield to_input(pixels.to(device), self.image_size), self.labels[chunk].to(device)

    def in_order(self, batch_size: int) -> tuple[Tensor, ...]:
        """Chunks for `batches` that return all images once, in stored order."""
        return torch.arange(len(self)).split(batch_size)


class MemoryImages(Images):
    """Images held as one uint8 tensor [N, 1 or 3, H, W], resized batch by batch."""

    def __init__(self, pixels: Tensor, labels: Tensor, image_size: int) -> None:
        super().__init__(labels, image_size)
        self.pixels = pixels

    def name(self, index: int) -> str:
        return f"image {index}"

    def frame(self, index: int) -> Image:
        import PIL.Image

        pixels = self.pixels[index]
        values = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
        return PIL.Image.fromarray(values.contiguous().numpy())

    def _pixels(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self.pixels[chunk] for chunk in chunks)


class FileImages(Images):
    """Images in files. Pictures that are kept in memory are not read again."""

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        preprocessing: Preprocessing,
        kept: Sequence[Image | None] | None = None,
    ) -> None:
        super().__init__(labels, preprocessing.image_size)
        self.paths = paths
        self.preprocessing = preprocessing
        self.zoom = preprocessing.image_size / preprocessing.resize
        self._kept = kept or [None] * len(paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def frame(self, index: int) -> Image:
        kept = self._kept[index]
        return self.preprocessing.frame(self.paths[index]) if kept is None else kept

    def _pixels(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        return in_threads(chunks, lambda index: self.preprocessing.crop(self.frame(index)))


def in_threads(chunks: Iterable[Tensor], read: Callable[[int], Tensor]) -> Iterator[Tensor]:
    """Each chunk's stack of the results of `read`, which threads compute ahead of use."""
    return read_ahead((chunk.tolist() for chunk in chunks), read, _stack)


def _stack(images: list[Tensor]) -> Tensor:
    # numpy stacks them: torch would start threads that compete with training.
    return torch.from_numpy(np.stack([image.numpy() for image in images]))


def read_ahead(
    chunks: Iterable[Sequence[object]],
    read: Callable[..., object],
    join: Callable[[list], Any] = list,
    ahead: int = 2,
) -> Iterator[Any]:
    """Yields join([read(item), ...]) for each chunk; threads compute it `ahead` chunks early.

    An item's exception is raised when its chunk is due.
    """
    pool = ThreadPoolExecutor(os.cpu_count())

    def join_results(items: list[Future]) -> object:
        return join([item.result() for item in items])

    reading: deque[Future] = deque()
    try:
        for chunk in chunks:
            items = [pool.submit(read, item) for item in chunk]
            # Threads take items in order, so a thread already has each item of a due chunk.
            reading.append(pool.submit(join_results, items))
            if len(reading) > ahead:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
