"""The sizes of feature maps, and of the images that are too small for any."""

from __future__ import annotations


def after(size: int, kernel_size: int, stride: int = 1, padding: int = 0) -> int:
    """Output size of a convolution or pool along one axis; 0 or less where nothing is left."""
    return (size + 2 * padding - kernel_size) // stride + 1


def check_size(network: str, image_size: int, smallest: int) -> None:
    """Raises ValueError where no feature map would be left of an image."""
    if image_size < smallest:
        raise ValueError(
            f"{network}: image_size {image_size} is too small, it takes images of "
            f"{smallest}x{smallest} and larger: set image_size to {smallest} or more"
        )
