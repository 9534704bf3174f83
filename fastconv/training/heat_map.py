"""Heat maps by Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..convert import revert

if TYPE_CHECKING:
    from PIL.Image import Image

_OPACITY = 0.7  # of the heat map over a picture, at value 1


def heat_map(model: Module, x: Tensor, label: int) -> Tensor:
    """The evidence for a class at each place of an image.

    The map is a weighted sum of the last feature maps [1, C, h, w] of more than one pixel that any
    module returns. A map's weight is the mean gradient of the class's output. The network's
    convolutions may be fastconv's or torch.nn's. `fastconv.revert` first takes fused blocks of a
    copy apart, so the map does not depend on the kind of layers. The model does not change.

    Args:
        model: a classifier in evaluation mode that returns logits [1, classes].
        x: one input, [1, channels, H, W].
        label: the class's index.

    Returns:
        [H, W] from 0 to 1, in x's dtype; all 0 without evidence for the class.

    Raises:
        ValueError: the model is in training mode, `x` is not one image, or there are no such maps.
    """
    if model.training:
        raise ValueError("heat_map: the model must be in evaluation mode, call model.eval() first")
    if x.dim() != 4 or len(x) != 1:
        raise ValueError(f"heat_map: expected one image [1, C, H, W], got {list(x.shape)}")
    model = revert(model)  # a copy around the same weights
    with torch.inference_mode(False), torch.enable_grad():
        # The input's graph works with frozen weights too. The network may change the copy in place.
        score, maps = _score_and_maps(model, x.clone().requires_grad_().clone(), label)
        (gradient,) = torch.autograd.grad(score, maps, allow_unused=True)
    if gradient is None:
        raise ValueError("heat_map: the class's output does not depend on the last feature maps")
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * maps.detach()).sum(dim=1, keepdim=True).relu()
    heat = F.interpolate(heat, x.shape[2:], mode="bilinear")[0, 0]
    return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)


def _score_and_maps(model: Module, x: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """The output for the class, and the last feature maps before it. Leaves hooks behind."""
    maps: list[Tensor] = []

    def remember(module: Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            maps[:] = [output]

    # All modules count, not only layers: a block's output may come from code after its last layer.
    for module in model.modules():
        module.register_forward_hook(remember)
    score = model(x)[0, label]
    if not maps:
        raise ValueError("heat_map: no module of the network returns feature maps [1, C, h, w]")
    return score, maps[0]


def overlay(image: Image, heat: Tensor) -> Image:
    """Draws a heat map over a picture in gray, so that its colors stand out on any picture.

    Args:
        image: the part that the network saw, at any size.
        heat: [H, W] from 0 to 1; it is resized to the picture.

    Returns:
        An RGB picture of the same size.
    """
    import PIL.Image
    from matplotlib import colormaps

    size, bilinear = image.size, PIL.Image.Resampling.BILINEAR
    resized = PIL.Image.fromarray(heat.float().cpu().numpy()).resize(size, bilinear)
    values = np.asarray(resized)[..., None]
    colors = 255 * colormaps["inferno"](values[..., 0])[..., :3]
    opacity = _OPACITY * np.sqrt(values)  # the root makes small values visible
    gray = np.asarray(image.convert("L").convert("RGB"))
    mixed = opacity * colors + (1 - opacity) * gray
    return PIL.Image.fromarray(mixed.round().astype(np.uint8))
