"""Which part of a network belongs to its classes."""

from __future__ import annotations

import torch

from .registry import create


def head_names(name: str, image_size: int) -> list[str]:
    """The parameters whose shapes depend on the number of classes: the head in fine-tuning.

    Args:
        name, image_size: as for `create`.

    Returns:
        Their names in the state_dict, in its order.

    Raises:
        ValueError: as `create`.
    """
    few, more = (_shapes(name, classes, image_size) for classes in (2, 3))
    return [key for key, shape in few.items() if shape != more[key]]


def _shapes(name: str, num_classes: int, image_size: int) -> dict[str, torch.Size]:
    try:
        with torch.device("meta"):  # takes no memory and little time
            model = create(name, num_classes, image_size, "torch")
    except Exception:  # some constructors need values, such as torchvision's regnet
        with torch.random.fork_rng(devices=[]):
            model = create(name, num_classes, image_size, "torch")
    return {key: value.shape for key, value in model.state_dict().items()}
