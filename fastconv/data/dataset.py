"""A data set in three parts, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from .images import Images
from .preprocessing import Preprocessing

PARTS = ("train", "val", "test")
PACKAGED = "fashion-mnist"  # the data set that comes with fastconv


@dataclass
class Dataset:
    """Images of `classes`; `parts` maps some of "train", "val" and "test" to theirs.

    `source` is "fashion-mnist" or the folder's absolute path, `preprocessing` what a single image
    goes through in prediction.
    """

    source: str
    classes: list[str]
    parts: dict[str, Images]
    preprocessing: Preprocessing
