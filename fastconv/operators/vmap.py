"""torch.func.vmap of an operation that knows nothing of an extra dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def vmap(
    call: Callable[..., Any],
    tensors: int,
    fold: Sequence[int],
    info: Any,
    in_dims: Sequence[Any],
    args: Sequence[Any],
) -> tuple[Any, Any]:
    """Outputs and their mapped dimensions, as torch wants them of a vmap rule.

    Args:
        call: the operation.
        tensors, fold: as `Operation` has them.
        info, in_dims, args: as torch gives them.
    """
    mapped = [i for i in range(tensors) if args[i] is not None and in_dims[i] is not None]
    moved = list(args)
    for i in mapped:
        moved[i] = args[i].movedim(in_dims[i], 0)
    if all(i in fold for i in mapped):
        for i in fold:
            if i not in mapped:
                moved[i] = args[i].expand(info.batch_size, *args[i].shape)
            moved[i] = moved[i].flatten(0, 1)
        output = call(*moved)
        parts = output if isinstance(output, tuple) else (output,)
        parts = tuple(_unfold(part, info.batch_size) for part in parts)
    else:
        samples = []
        for b in range(info.batch_size):
            sample = [moved[i][b] if i in mapped else arg for i, arg in enumerate(args)]
            output = call(*sample)
            samples.append(output if isinstance(output, tuple) else (output,))
        parts = tuple(torch.stack(part) for part in zip(*samples, strict=True))
    return (parts, (0,) * len(parts)) if isinstance(output, tuple) else (parts[0], 0)


def _unfold(part: Tensor, batch: int) -> Tensor:
    """The batch in front of N again."""
    if part.dim() == 1:  # an output that is not wanted
        return part.expand(batch, -1)
    return part.unflatten(0, (batch, -1))
