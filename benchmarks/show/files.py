"""Checks the files and folders of a command line before anything is measured.

Each function is a `type` of argparse. It turns the typed text into a path, and raises
ArgumentTypeError if the path cannot be used.
"""

from __future__ import annotations

import json
import os
from argparse import ArgumentTypeError
from pathlib import Path


def to_write(text: str) -> Path:
    """A file that can be written."""
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{path} is a folder, name a file")
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"there is no folder {path.parent} for {path.name}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ArgumentTypeError(f"{path} cannot be written")
    return path


def folder_to_write(text: str) -> Path:
    """A folder for files, which is created if it does not exist."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentTypeError(f"{path} is no folder ({error.strerror})") from None
    if not os.access(path, os.W_OK):
        raise ArgumentTypeError(f"{path} cannot be written")
    return path


def to_read(text: str) -> Path:
    """A file of results."""
    path = Path(text)
    try:
        json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(f"{path} is no file of results ({error})") from None
    return path


def folder_to_read(text: str) -> Path:
    """A folder with files of results."""
    path = Path(text)
    if not path.is_dir():
        raise ArgumentTypeError(f"there is no folder {path}")
    for file in sorted(path.glob("*.json")):
        to_read(str(file))
    return path
