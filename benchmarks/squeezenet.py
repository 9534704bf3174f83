"""SqueezeNet 1.1, with torchvision's names, so that its weight files load."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fire(nn.Module):
    """conv 1x1 to few channels; of these a conv 1x1 and a conv 3x3, put beside each other."""

    def __init__(self, inputs: int = 3, squeezed: int = 4, expanded: int = 6) -> None:
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
    """Images of any size from 17 on, to logits [N, num_classes]."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(inplace=True), _pool()),
            *(Fire(64, 16, 64), Fire(128, 16, 64), _pool()),
            *(Fire(128, 32, 128), Fire(256, 32, 128), _pool()),
            *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Conv2d(512, num_classes, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)
