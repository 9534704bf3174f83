"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch.nn import Module

from .._suggest import did_you_mean
from ._sizes import check_size
from .case_study_cnn import CaseStudyCNN
from .cnn import CNN
from .external import PACKAGES, create_external, suggest
from .resnet50 import resnet50
from .simple_cnn import SimpleCNN
from .squeezenet1_1 import squeezenet1_1


class Entry(NamedTuple):
    """A network of the registry: how to build it, and the image size it is trained with."""

    build: Callable[[int, int, str], Module]  # num_classes, image_size, layers
    image_size: int


def _squeezenet1_1(num_classes: int, image_size: int, layers: str) -> Module:
    check_size("squeezenet1_1", image_size, smallest=17)
    return squeezenet1_1(num_classes, layers)


MODELS = {
    "CNN": Entry(CNN, 112),
    "CaseStudyCNN": Entry(CaseStudyCNN, 224),
    "SimpleCNN": Entry(SimpleCNN, 224),
    "resnet50": Entry(lambda classes, _, layers: resnet50(classes, layers), 224),
    "squeezenet1_1": Entry(_squeezenet1_1, 224),
}

# What a network may be called, for errors and help.
NAMES = (*MODELS, *(f"{package}:NAME" for package in PACKAGES))


def create(name: str, num_classes: int, image_size: int, layers: str = "fastconv") -> Module:
    """A new network by name.

    Args:
        name: a key of `MODELS`, or a network of another package: "torchvision:NAME", "timm:NAME",
            or "transformers:NAME", where NAME may also be a folder with a config.json.
        num_classes: the number of classes.
        image_size: height and width of the images it will see.
        layers: "fastconv" or "torch".

    Returns:
        The network, in training mode, with fresh weights, giving logits [N, num_classes].

    Raises:
        ValueError: unknown `name` or `layers`, the other package is missing, or the network does
            not take images of `image_size`.
    """
    return _entry(name).build(num_classes, image_size, layers)


def default_image_size(name: str) -> int:
    """The image size that a network is usually trained with. `name` as for `create`.

    Raises:
        ValueError: unknown `name`; whether another package has the network is seen by `create`.
    """
    return _entry(name).image_size


def _entry(name: str) -> Entry:
    if name.partition(":")[0] in PACKAGES:
        return Entry(partial(create_external, name), 224)
    if name not in MODELS:
        hint = did_you_mean(suggest(name, MODELS)) or ","
        raise ValueError(f"unknown model {name!r}{hint} choose one of {', '.join(NAMES)}")
    return MODELS[name]
