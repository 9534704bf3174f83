"""A data set has up to three parts and records its source."""

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

    `source` is "fashion-mnist" or the folder's absolute path. `preprocessing` is used for a
    single image in prediction. `skipped` has the reason for each image that could not be read.
    `notes` has the lines that a person should see. `fingerprint` changes with the
    contents, classes and names of the parts' images, but not with the folder's path.
    """

    source: str
    classes: list[str]
    parts: Mapping[str, Images]
    preprocessing: Preprocessing
    fingerprint: str
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
