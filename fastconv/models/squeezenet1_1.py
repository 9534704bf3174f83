"""SqueezeNet 1.1, with torchvision's parameter names, so that its weight files load."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._layers import use_layers


class Fire(nn.Module):
    """conv 1x1 to few channels; of these a conv 1x1 and a conv 3x3, put beside each other."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [
                self.expand1x1_activation(self.expand1x1(x)),
                self.expand3x3_activation(self.expand3x3(x)),
            ],
            1,
        )


class SqueezeNet(nn.Module):
    """See `squeezenet1_1`."""

    def __init__(self, num_classes: int, layers: str, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(inplace=True), _pool()),
            *(Fire(64, 16, 64), Fire(128, 16, 64), _pool()),
            *(Fire(128, 32, 128), Fire(256, 32, 128), _pool()),
            *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
        )
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is last:
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        use_layers(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)


def squeezenet1_1(
    num_classes: int = 1000, layers: str = "fastconv", dropout: float = 0.5
) -> SqueezeNet:
    """SqueezeNet 1.1 as published: conv 3x3, eight Fire modules, conv 1x1 and the mean of its maps.

    The first convolution has stride 2 and no padding, the three max-pools (3, stride 2, behind it
    and behind the second and the fourth Fire) have `ceil_mode`.

    Shape: float [N, 3, H, W], any H and W from 17 on, to logits [N, num_classes].

    Args:
        num_classes: the number of classes.
        layers: "fastconv" or "torch", which runs the same network on torch.nn's layers.
        dropout: the probability of a feature to be dropped in training, in front of the conv 1x1.

    Raises:
        ValueError: unknown `layers`.
    """
    return SqueezeNet(num_classes, layers, dropout)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
