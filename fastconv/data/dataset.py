"""A data set in three parts, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .images import Images
from .preprocessing import Preprocessing

PARTS = ("train", "val", "test")
PACKAGED = "fashion-mnist"  # the data set that comes with fastconv


@dataclass
class Dataset:
    """Images of `classes`; `parts` maps some of "train", "val" and "test" to theirs.

    `source` is "fashion-mnist" or the folder's absolute path, `preprocessing` what a single image
    goes through in prediction, `skipped` says of each image that could not be read why, and `notes`
    has the lines that a person should see. `fingerprint` changes with the parts' images: their
    contents, classes and names below the folder, wherever that is.
    """

    source: str
    classes: list[str]
    parts: Mapping[str, Images]
    preprocessing: Preprocessing
    fingerprint: str
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
