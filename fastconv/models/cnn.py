"""The small network: one convolution block and two fully connected layers."""

from __future__ import annotations

from torch import Tensor, nn

from ._layers import use_layers
from ._sizes import after, check_size


class CNN(nn.Module):
    """conv 3->32 3x3, ReLU, max-pool 2; FC -> 128, ReLU, FC -> classes.

    Shape: float [N, 3, image_size, image_size] to logits [N, num_classes].

    Args:
        num_classes: the number of classes.
        image_size: height and width of the images; 112 makes the first FC 32*56*56 -> 128.
        layers: "fastconv" or "torch", which runs the same network on torch.nn's layers.

    Raises:
        ValueError: unknown `layers`, or `image_size` below 2.
    """

    def __init__(
        self, num_classes: int = 10, image_size: int = 112, layers: str = "fastconv"
    ) -> None:
        super().__init__()
        check_size("CNN", image_size, smallest=2)
        size = after(image_size, 2, stride=2)
        self.features = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(
            nn.Linear(32 * size * size, 128), nn.ReLU(), nn.Linear(128, num_classes)
        )
        use_layers(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
