"""Reads pretrained weights from files and loads them into a network."""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from .._reason import reason
from .checkpoint import classes_in
from .errors import UsageError
from .run_folder import find_checkpoint
from .tensor_file import read_tensors


@dataclass(frozen=True)
class Weights:
    """The contents of a file of weights.

    Attributes:
        path: the file.
        tensors: its entries by name.
        classes: the classes' names in the order of the outputs; None if the file has no list.
    """

    path: Path
    tensors: dict[str, Tensor]
    classes: list[str] | None


def read_weights(path: str | PathLike[str]) -> Weights:
    """Reads a run's weights, a safetensors file or a state_dict of torch.save. Runs no code in it.

    The state_dict may be the entry "state_dict" or "model" of a larger checkpoint. DataParallel's
    prefix "module." is removed from names.

    Raises:
        UsageError: the file is missing or broken, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        path = find_checkpoint(path)
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # its header, behind the header's length
            file.seek(0)
            tensors, classes = _read_safetensors(path) if is_safetensors else _read_pickle(file)
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file of weights; ImageNet's for resnet50 and squeezenet1_1 are at "
            "download.pytorch.org/models/, see docs/training.md"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except _WrongContent as error:
        raise UsageError(f"{path}: {error}") from None
    consume_prefix_in_state_dict_if_present(tensors, "module.")
    return Weights(path, tensors, classes)


def load_pretrained(
    model: Module, weights: Weights, head: Collection[str], classes: list[str]
) -> bool:
    """Loads weights into a network. The head's are loaded only for the same classes.

    Args:
        model: the network.
        weights: must have all entries of the network and no others. The head may be missing, and
            so may BatchNorm's num_batches_tracked, which old files lack.
        head: the names that depend on the number of classes, see `fastconv.models.head_names`.
        classes: the classes of the network; weights without a list count as made for them.

    Returns:
        Whether the head was loaded: all its shapes fit, and the classes are the same.

    Raises:
        UsageError: the weights are not for this network. The network is unchanged.
    """
    own, given = model.state_dict(), weights.tensors
    with_head = weights.classes in (None, classes) and all(
        name in given and given[name].shape == own[name].shape for name in head
    )
    wanted = [name for name in own if with_head or name not in head]
    _check_entries(own, wanted, weights)
    model.load_state_dict({n: given[n] for n in wanted if n in given}, strict=False)
    return with_head


def _check_entries(own: dict[str, Tensor], wanted: list[str], weights: Weights) -> None:
    """Raises UsageError if names or shapes differ."""
    given, path = weights.tensors, weights.path
    missing = [n for n in wanted if n not in given and not n.endswith(".num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    others = [n for n in wanted if n in given and given[n].shape != own[n].shape]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of the network's {len(own)} entries are not in {path}, "
            f"among them {missing[0]}"
        )
    if unexpected:
        problems.append(
            f"{len(unexpected)} of the {len(given)} entries of {path} are not the network's, "
            f"among them {unexpected[0]}"
        )
    if others:
        shape, expected = list(given[others[0]].shape), list(own[others[0]].shape)
        problems.append(
            f"{len(others)} of the {len(given)} entries of {path} have other shapes than the "
            f"network's, among them {others[0]}: {shape}, expected {expected}"
        )
    if problems:
        raise UsageError("; ".join(problems))


class _WrongContent(Exception):
    """The error of a file; its message is printed behind the file's name."""


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_tensors(path)
        return tensors, classes_in(metadata)
    except SafetensorError as error:
        raise _WrongContent(f"not a readable safetensors file ({reason(error)})") from None


def _read_pickle(file: BinaryIO) -> tuple[dict[str, Tensor], None]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files raise almost anything
        refused = isinstance(error, pickle.UnpicklingError) and re.search(
            r"GLOBAL (\S+)", str(error)
        )
        if refused:
            raise _WrongContent(
                f"holds {refused[1]}, and only tensors are loaded, as other things may run code: "
                "save the state_dict() alone"
            ) from None
        raise _WrongContent("neither a safetensors file nor one that torch.save wrote") from None
    return _find_state_dict(content), None


def _find_state_dict(content: Any) -> dict[str, Tensor]:
    if isinstance(content, dict):
        inner = [content[key] for key in ("state_dict", "model") if key in content]
        content = next((value for value in inner if isinstance(value, dict)), content)
    if not isinstance(content, dict) or not content:
        raise _WrongContent("holds no state_dict, which is a dict of tensors")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise _WrongContent(
                f"holds no state_dict, which is a dict of tensors: {name!r} is a "
                f"{type(value).__name__}"
            )
    return content
