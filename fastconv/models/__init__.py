"""The networks that fastconv trains, each also with torch.nn's layers (`layers="torch"`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch.nn import Module

from ._layers import LAYERS
from .case_study_cnn import CaseStudyCNN
from .cnn import CNN
from .resnet50 import resnet50
from .simple_cnn import SimpleCNN

__all__ = [
    "CNN",
    "LAYERS",
    "MODELS",
    "CaseStudyCNN",
    "SimpleCNN",
    "create",
    "resnet50",
]


class Entry(NamedTuple):
    """A network of the registry: how to build it, and the image size it is trained with."""

    build: Callable[[int, int, str], Module]  # num_classes, image_size, layers
    image_size: int


MODELS = {
    "CNN": Entry(CNN, 112),
    "CaseStudyCNN": Entry(CaseStudyCNN, 224),
    "SimpleCNN": Entry(SimpleCNN, 224),
    "resnet50": Entry(lambda classes, _, layers: resnet50(classes, layers), 224),
}


def create(name: str, num_classes: int, image_size: int, layers: str = "fastconv") -> Module:
    """A new network of the registry `MODELS`.

    Args:
        name: a key of `MODELS`.
        num_classes: the number of classes.
        image_size: height and width of the images it will see.
        layers: "fastconv" or "torch".

    Returns:
        The network, in training mode, with fresh weights.

    Raises:
        ValueError: unknown `name` or `layers`, or an `image_size` too small for the network.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}, choose one of {', '.join(MODELS)}")
    return MODELS[name].build(num_classes, image_size, layers)
