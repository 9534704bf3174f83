"""Loads networks from checkpoints, or from weights that fastconv did not write."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

import torch
from torch.nn import Module

from .. import models
from ..data import Preprocessing
from ..data.imagenet_names import output_names
from .checkpoint import Description, load_checkpoint
from .errors import UsageError
from .weights import load_pretrained, read_weights


def load_network(
    path: str | PathLike[str],
    model: str | None,
    layers: str | None = None,
    device: torch.device | str = "cpu",
    log: Callable[[str], object] = print,
) -> tuple[Module, Description]:
    """Builds a network for prediction from a checkpoint or from any weights.

    Args:
        path: a run folder or checkpoint. With `model`, also safetensors or a torch file with a
            state_dict.
        model: the network that the weights are for, see `fastconv.models.create`.
        layers: "fastconv" or "torch"; None for the layers that it was trained with, else
            "fastconv".
        device: the device that it runs on.
        log: gets a line that says how to install the classes' names, if they are missing.

    Returns:
        The network in evaluation mode, and its description. If the file has no list of classes,
        1000 outputs get ImageNet's.

    Raises:
        UsageError: the file is missing or broken, or of another network.
    """
    if model is None:
        return load_checkpoint(path, layers, device)
    weights = read_weights(path)
    layers = layers or "fastconv"
    try:
        size = models.default_image_size(model)
        head = models.head_names(model, size)
        outputs = {len(weights.tensors[name]) for name in head if name in weights.tensors}
        if len(outputs) != 1:
            raise UsageError(f"{path}: has no last layer of {model}, {' and '.join(head)}")
        (count,) = outputs
        network = models.create(model, count, size, layers)
    except ValueError as error:
        raise UsageError(str(error)) from None
    classes = weights.classes or output_names(count, log)
    load_pretrained(network, weights, head, classes)
    resize = Preprocessing.for_photos(size).resize
    description = Description(model, layers, classes, size, resize, epoch=0, data="", seed=0)
    return network.to(device).eval(), description
