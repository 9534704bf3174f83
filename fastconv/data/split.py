"""Splits labelled images into parts, class by class and by the seed alone."""

from __future__ import annotations

import torch
from torch import Tensor


def split(labels: Tensor, fractions: dict[str, float], seed: int) -> dict[str, Tensor]:
    """Returns the indices of each part, which has a fraction of every class, at least one image.

    Args:
        labels: int64 [N].
        fractions: the parts to split off.
        seed: the same seed gives the same parts.

    Returns:
        The indices of each part in ascending order. The remaining ones are "train".
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {part: [] for part in ("train", *fractions)}
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        start = 0
        for part, fraction in fractions.items():
            end = start + max(1, round(fraction * len(members)))
            parts[part].append(members[start:end])
            start = end
        parts["train"].append(members[start:])
    return {part: torch.cat(indices).sort().values for part, indices in parts.items()}
