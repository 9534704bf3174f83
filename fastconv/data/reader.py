"""Reads all pictures of a data set once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .dataset import Dataset
from .errors import DataError
from .images import FileImages, read_ahead
from .preprocessing import Preprocessing
from .search import LISTED, Search

if TYPE_CHECKING:
    from PIL.Image import Image

MEMORY_LIMIT = 2**31  # bytes of pictures kept in memory


class Reader:
    """Reads all pictures once, keeps up to MEMORY_LIMIT bytes of them, and notes the broken ones.

    Args:
        folder: the data set's folder.
        preprocessing: the pictures' preprocessing.
        strict: whether a broken one is an error.
    """

    def __init__(self, folder: Path, preprocessing: Preprocessing, strict: bool = False) -> None:
        self.count = 0
        self._folder = folder
        self._preprocessing = preprocessing
        self._strict = strict
        self._skipped: list[str] = []
        self._room = MEMORY_LIMIT
        self._digest = hashlib.sha256()

    def read(
        self,
        part: str,
        paths: list[Path],
        labels: Tensor,
        progress: Callable[[], object] = lambda: None,
    ) -> FileImages:
        """A part's readable images.

        Raises:
            DataError: none can be read, or `strict` and one cannot.
        """
        good: list[int] = []
        kept: list[Image | None] = []
        seen = 0
        chunks = (paths[i : i + 64] for i in range(0, len(paths), 64))
        for found in read_ahead(chunks, self._frame):
            for picture, content in found:
                if not isinstance(picture, DataError):
                    good.append(seen)
                    kept.append(self._keep(picture))
                    name = paths[seen].relative_to(self._folder).as_posix()
                    self._digest.update(repr((part, name, int(labels[seen]), content)).encode())
                elif self._strict:
                    raise picture
                else:
                    self._skipped.append(str(picture))
                seen += 1
            self.count += len(found)
            progress()
        if not good:
            raise DataError(f"{self._folder}: no {part} image can be read")
        return FileImages([paths[i] for i in good], labels[good], self._preprocessing, kept)

    def dataset(self, classes: list[str], images: dict[str, FileImages], search: Search) -> Dataset:
        """The data set of the pictures that were read, with notes on the others."""
        return Dataset(
            str(self._folder.resolve()),
            classes,
            images,
            self._preprocessing,
            self._digest.hexdigest()[:16],
            self._skipped,
            self._notes() + search.notes(),
        )

    def _keep(self, picture: Image) -> Image | None:
        size = 3 * picture.width * picture.height
        if size > self._room:
            return None
        self._room -= size
        return picture

    def _frame(self, path: Path) -> tuple[Image | DataError, bytes]:
        """The picture or its DataError, and a digest of its file."""
        try:
            picture = self._preprocessing.frame(path)
        except DataError as error:
            return error, b""
        # The file was just read, so the system has it in memory.
        return picture, hashlib.blake2b(path.read_bytes(), digest_size=16).digest()

    def _notes(self) -> list[str]:
        if not self._skipped:
            return []
        notes = [f"left out {len(self._skipped)} that cannot be read:"]
        notes += [f"  {text}" for text in self._skipped[:LISTED]]
        if len(self._skipped) > LISTED:
            notes.append(f"  and {len(self._skipped) - LISTED} more, see metrics.json")
        return notes
