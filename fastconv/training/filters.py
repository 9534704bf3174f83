"""Draws the filters of a network's first layer."""

from __future__ import annotations

import math
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from .atomic import replace_file

_WIDTH, _GAP = 960, 5  # pixels


def first_filters(model: Module) -> Tensor | None:
    """The first convolution's filters, each scaled to 0..1.

    Returns:
        float32 [K, 1 or 3, R, S], or None if its input is neither gray nor RGB images.
    """
    weights = (getattr(module, "weight", None) for module in model.modules())
    first = next((w for w in weights if isinstance(w, Tensor) and w.dim() == 4), None)
    if first is None or first.shape[1] not in (1, 3):
        return None
    filters = first.detach().float().cpu()
    lowest, highest = (f(dim=(1, 2, 3), keepdim=True) for f in (filters.amin, filters.amax))
    return (filters - lowest) / (highest - lowest).clamp(min=1e-12)


def draw_filters(path: Path, filters: Tensor) -> None:
    """Draws filters side by side into a PNG file, each value as a square, on no background.

    Args:
        path: the file.
        filters: float [K, 1 or 3, R, S] from 0 to 1.
    """
    import PIL.Image

    count, width = len(filters), filters.shape[3]
    columns = min(count, max(8, math.ceil(math.sqrt(2 * count))))  # about twice as wide as high
    scale = max(1, (_WIDTH // columns - 2 * _GAP) // width)
    tiles = F.pad(filters.expand(-1, 3, -1, -1), (0, 0, 0, 0, 0, 1), value=1.0)  # opaque
    tiles = tiles.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    missing = -count % columns  # transparent tiles that fill the last row
    tiles = F.pad(tiles, (_GAP, _GAP, _GAP, _GAP, 0, 0, 0, missing))
    grid = tiles.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)  # row, y, column, x, colour
    pixels = (grid.flatten(2, 3).flatten(0, 1) * 255).round().byte().numpy()
    replace_file(path, lambda part: PIL.Image.fromarray(pixels).save(part, format="png"))
