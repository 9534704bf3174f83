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
    with torch.device("meta"):  # shapes are all it takes
        few, more = (create(name, classes, image_size, "torch").state_dict() for classes in (2, 3))
    return [key for key, value in few.items() if value.shape != more[key].shape]
