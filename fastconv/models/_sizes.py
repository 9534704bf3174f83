"""The sizes of feature maps, for the networks whose first fully connected layer depends on them."""

from __future__ import annotations


def after(size: int, kernel_size: int, stride: int = 1, padding: int = 0) -> int:
    """Output size of a convolution or pool along one axis; 0 or less where nothing is left."""
    return (size + 2 * padding - kernel_size) // stride + 1


def check_size(network: str, image_size: int, features: int, smallest: int) -> None:
    """Raises ValueError where no feature map is left of an image."""
    if features < 1:
        raise ValueError(
            f"{network}: image_size {image_size} is too small, it needs at least {smallest}"
        )
