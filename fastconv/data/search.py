"""Finds image files in folders and notes the files that it passes over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

LISTED = 10  # names in a note; it counts the others


class Search:
    """Finds images by the suffixes of their names, and notes the files that it passes over.

    Hidden files and folders, whose names begin with a dot, are passed over without a note.
    """

    def __init__(self) -> None:
        self._suffixes = image_suffixes()
        self._others: Counter[str] = Counter()
        self._below: Counter[str] = Counter()
        self._beside: list[str] = []

    def images(self, folder: Path) -> list[Path]:
        """The images in a folder, by name. Images in folders below it are passed over."""
        found = []
        for name, is_folder in visible(folder):
            if is_folder:
                count = sum(map(self._is_image, files_below(folder / name)))
                self._below += Counter({f"{folder.name}/{name}": count})
            elif self._is_image(name):
                found.append(folder / name)
            else:
                self._pass_over(name)
        return found

    def images_below(self, folder: Path) -> list[Path]:
        """The images in a folder and in all folders below it, by name."""
        found = []
        for path in files_below(folder):
            if self._is_image(path):
                found.append(Path(path))
            else:
                self._pass_over(path)
        return sorted(found)

    def pass_over_beside(self, folder: Path, used: Iterable[str]) -> None:
        """Passes over a folder's images, and its sub-folders that are not in `used`."""
        for name, is_folder in visible(folder):
            if name not in used and (is_folder or self._is_image(name)):
                self._beside.append(f"{name}/" if is_folder else name)

    def notes(self) -> list[str]:
        """A line for each kind of file that was passed over."""
        lines = []
        if self._below:
            folders = (f"{count} in {name}" for name, count in self._below.items())
            lines.append(f"passed over images in sub-folders of classes: {listed(folders)}")
        if self._beside:
            lines.append(f"passed over beside the folders of images: {listed(self._beside)}")
        if self._others:
            kinds = (f"{count} {kind}" for kind, count in sorted(self._others.items()))
            lines.append(f"passed over files that Pillow does not read: {listed(kinds)}")
        return lines

    def _is_image(self, path: str) -> bool:
        return os.path.splitext(path)[1].lower() in self._suffixes

    def _pass_over(self, path: str) -> None:
        self._others[os.path.splitext(path)[1].lower() or "without a suffix"] += 1


def visible(folder: Path) -> list[tuple[str, bool]]:
    """The visible names in a folder, sorted, and whether each is a folder."""
    with os.scandir(folder) as entries:
        return sorted((e.name, e.is_dir()) for e in entries if not _is_hidden(e.name))


def files_below(folder: Path) -> Iterator[str]:
    """The paths of all visible files in a folder and below it."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        yield from (os.path.join(parent, name) for name in files if not _is_hidden(name))


def image_suffixes() -> set[str]:
    """The suffixes of files that Pillow opens."""
    import PIL.Image

    formats = PIL.Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name in PIL.Image.OPEN}


def listed(names: Iterable[str]) -> str:
    """The first names, and the number of the others."""
    names = list(names)
    more = [f"and {len(names) - LISTED} more"] if len(names) > LISTED else []
    return ", ".join(names[:LISTED] + more)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
