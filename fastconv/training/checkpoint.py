"""A checkpoint is a trained network in one safetensors file, with all that rebuilds it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from .. import models
from .._reason import reason
from ..data import Preprocessing
from .errors import UsageError
from .run_folder import find_checkpoint
from .tensor_file import read_tensors, write_tensors

_KEY = "fastconv"  # of the file's metadata
_HINT = "--model says whose weights it holds, where it is another's"


@dataclass(frozen=True)
class Description:
    """A checkpoint's contents besides the weights.

    Attributes:
        model: a name in `fastconv.models.MODELS`.
        layers: the kind of layers it was trained with, "fastconv" or "torch".
        classes: the classes' names in the order of the outputs.
        image_size, resize: see `fastconv.data.Preprocessing`.
        epoch: the number of finished epochs.
        data, seed: the data set and how it was split, see `fastconv.data.load`.
        doubt: a warning that its test was no better than naming the most frequent class, and what
            to try; None if it was better, and in older checkpoints.
    """

    model: str
    layers: str
    classes: list[str]
    image_size: int
    resize: int
    epoch: int
    data: str
    seed: int
    doubt: str | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.image_size, self.resize)


def save_checkpoint(path: str | PathLike[str], model: Module, description: Description) -> None:
    """Writes a checkpoint, replacing an older one atomically.

    Raises:
        TrainingError: the file cannot be written.
    """
    write_tensors(Path(path), model.state_dict(), {_KEY: json.dumps(asdict(description))})


def move_checkpoint(path: Path, data: str) -> None:
    """Writes the new place of a checkpoint's data set into it.

    Raises:
        UsageError, TrainingError: fastconv did not write the file, or it cannot be written.
    """
    tensors, description = _read(path)
    if description.data != data:
        about = asdict(replace(description, data=data))
        write_tensors(path, tensors, {_KEY: json.dumps(about)})


def read_description(path: Path) -> Description:
    """The description in a checkpoint. Raises UsageError if fastconv did not write the file."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], Description]:
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_tensors(path)
        return tensors, Description(**json.loads(metadata[_KEY]))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such checkpoint") from None
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: not a readable safetensors file ({error}); {_HINT}") from None
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path}: was not written by fastconv train; {_HINT}") from None


def classes_in(metadata: dict[str, str] | None) -> list[str] | None:
    """The class list in a safetensors file's metadata; None if fastconv did not write it."""
    try:
        return json.loads((metadata or {})[_KEY])["classes"]
    except (KeyError, TypeError, ValueError):
        return None


def load_checkpoint(
    path: str | PathLike[str], layers: str | None = None, device: torch.device | str = "cpu"
) -> tuple[Module, Description]:
    """Builds the network of a checkpoint, ready for prediction.

    Args:
        path: a run folder, or a file written by `save_checkpoint`.
        layers: "fastconv" or "torch"; None for the layers that it was trained with.
        device: the device that it runs on.

    Returns:
        The network in evaluation mode, and its description.

    Raises:
        UsageError: the file is missing, broken or not fastconv's.
    """
    path = find_checkpoint(path)
    tensors, description = _read(path)
    try:
        model = models.create(
            description.model,
            len(description.classes),
            description.image_size,
            layers or description.layers,
        )
        model.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{path}: does not fit its own description ({reason(error)})") from None
    return model.to(device).eval(), description


def load_weights(path: Path, model: Module) -> None:
    """Loads a checkpoint's weights into the network that it was made from.

    Raises:
        RuntimeError: the checkpoint is of another network.
    """
    model.load_state_dict(read_tensors(path)[0])
