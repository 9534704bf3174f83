"""Labelled images, in memory or in files, and the batches made of them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from .preprocessing import Preprocessing, to_input

Batch = tuple[Tensor, Tensor]


class Images(ABC):
    """Labelled images of one size.

    Attributes:
        labels: int64 [len(self)], indices into the data set's classes.
        image_size: height and width of what `batches` gives.
    """

    def __init__(self, labels: Tensor, image_size: int) -> None:
        self.labels = labels
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def _pixels(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each chunk of indices the pixels, uint8 [n, 1 or 3, H, W]."""

    def batches(
        self,
        batch_size: int,
        shuffle: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """All images once, as (float32 [n, 3, image_size, image_size], int64 [n]).

        Args:
            batch_size: images in a batch; the last one may be smaller.
            shuffle: the source of a random order, None for the stored order.
            device: where the batches shall be.
        """
        count = len(self)
        order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
        chunks = order.split(batch_size)
        for chunk, pixels in zip(chunks, self._pixels(chunks), strict=True):
            yield to_input(pixels.to(device), self.image_size), self.labels[chunk].to(device)


class MemoryImages(Images):
    """Images held as one uint8 tensor [N, 1 or 3, H, W], resized batch by batch."""

    def __init__(self, pixels: Tensor, labels: Tensor, image_size: int) -> None:
        super().__init__(labels, image_size)
        self.pixels = pixels

    def _pixels(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self.pixels[chunk] for chunk in chunks)


class FileImages(Images):
    """Images decoded from their files by threads, a few batches ahead of their use."""

    AHEAD = 2

    def __init__(self, paths: Sequence[Path], labels: Tensor, preprocessing: Preprocessing) -> None:
        super().__init__(labels, preprocessing.image_size)
        self.paths = paths
        self.preprocessing = preprocessing

    def _pixels(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        pool = ThreadPoolExecutor(os.cpu_count())
        reading: deque[list[Future[Tensor]]] = deque()
        try:
            for chunk in chunks:
                paths = [self.paths[i] for i in chunk.tolist()]
                reading.append([pool.submit(self.preprocessing.read, path) for path in paths])
                if len(reading) > self.AHEAD:
                    yield torch.stack([image.result() for image in reading.popleft()])
            while reading:
                yield torch.stack([image.result() for image in reading.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)

    def in_memory(self) -> MemoryImages:
        """The same images, decoded once for all."""
        size = self.image_size
        pixels = torch.empty(len(self), 3, size, size, dtype=torch.uint8)
        for target, chunk in zip(pixels.split(64), self._all_pixels(), strict=True):
            target.copy_(chunk)
        return MemoryImages(pixels, self.labels, size)

    def check(self) -> None:
        """Decodes every image. Raises DataError for the first one that cannot be read."""
        for _ in self._all_pixels():
            pass

    def _all_pixels(self) -> Iterator[Tensor]:
        return self._pixels(torch.arange(len(self)).split(64))
