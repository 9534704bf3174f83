"""Each operation on tiny tensors, where hardly anything is computed: torch's way and fastconv's."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv import functional

SIZES = {"x": (1, 3, 6, 6), "weight": (4, 3, 3, 3), "bias": (4,)}

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]

BLOCK = "conv2d + relu + max_pool2d"

# Torch's way and fastconv's.
OPERATIONS: dict[str, tuple[Operation, Operation]] = {
    "conv2d": (F.conv2d, functional.conv2d),
    "relu": (lambda x, w, b: F.relu(x), lambda x, w, b: functional.relu(x)),
    "max_pool2d": (lambda x, w, b: F.max_pool2d(x, 2), lambda x, w, b: functional.max_pool2d(x, 2)),
    "conv2d + relu": (lambda x, w, b: F.relu(F.conv2d(x, w, b)), functional.conv2d_relu),
    BLOCK: (
        lambda x, w, b: F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2),
        lambda x, w, b: functional.conv2d_relu_max_pool2d(x, w, b, pool_kernel_size=2),
    ),
}


def tensors() -> list[Tensor]:
    """What an operation is called with."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in SIZES.values()]
