"""ResNet-50, with torchvision's parameter names, so that its weight files load."""

from __future__ import annotations

from torch import Tensor, nn

from ._layers import use_layers


class Bottleneck(nn.Module):
    """conv 1x1, conv 3x3 (which holds the stride), conv 1x1 to four times the channels, plus x."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * channels
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


class ResNet50(nn.Module):
    """See `resnet50`."""

    def __init__(self, num_classes: int, layers: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        use_layers(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet50(num_classes: int = 1000, layers: str = "fastconv") -> ResNet50:
    """ResNet-50 as published, with the stride in the 3x3 convolutions as in torchvision.

    Shape: float [N, 3, H, W], any H and W from 32 on, to logits [N, num_classes].

    Args:
        num_classes: the number of classes.
        layers: "fastconv" or "torch", which runs the same network on torch.nn's layers.

    Raises:
        ValueError: unknown `layers`.
    """
    return ResNet50(num_classes, layers)


def _stage(inputs: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, channels, stride)
    return nn.Sequential(first, *(Bottleneck(4 * channels, channels, 1) for _ in range(1, blocks)))
