"""Replaces files atomically: a reader or a crash sees the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .errors import TrainingError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file atomically: readers, and a crash at any moment, see it old or new.

    Args:
        path: the file, which need not exist yet.
        write: writes the new content to the path it is given, in the same folder.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        _flush(temporary)  # else the new name could reach the disk before the content
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file atomically. Raises TrainingError if it cannot be written."""
    try:
        replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error})") from None


def _flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
