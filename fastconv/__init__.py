"""fastconv: convolution, ReLU and max-pool layers for PyTorch, fused and fast, both ways.

    from fastconv import Conv2d, ReLU, MaxPool2d  # instead of torch.nn's
    model = fastconv.convert(model)  # or: any model, with fused blocks

Results are torch.nn's.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

import torch as _torch  # noqa: F401  before _C, so that both share one OpenMP library

try:
    from ._C import build_info as _build_info
except ModuleNotFoundError as _error:
    if _error.name != f"{__name__}._C":
        raise
    raise ImportError(
        f"fastconv was not built: {__path__[0]} has no compiled part (_C). Run `pip install .` in "
        "the repository; if it is installed, ./fastconv here shadows it: leave this folder, or use "
        "`fastconv ...`, `pytest` or `python benchmarks ...` instead of `python -m`."
    ) from None

from . import functional as functional
from . import nn as nn
from .convert import convert, explain, revert
from .functional import conv2d, conv2d_relu, conv2d_relu_max_pool2d, max_pool2d, relu
from .implementations import load_implementations
from .info import info
from .nn import Conv2d, ConvReLU2d, ConvReLUMaxPool2d, MaxPool2d, ReLU
from .operators import decompositions
from .precision import get_precision, set_precision

if TYPE_CHECKING:
    from . import data as data
    from . import models as models
    from . import training as training
    from .models import CNN, CaseStudyCNN, SimpleCNN
    from .models.resnet50 import resnet50 as resnet50
    from .models.squeezenet1_1 import squeezenet1_1 as squeezenet1_1

__version__: str = _build_info()["version"]

_MODULES = ("data", "models", "training")
_FROM_MODELS = ("CNN", "CaseStudyCNN", "SimpleCNN", "resnet50", "squeezenet1_1")


def __getattr__(name: str) -> object:
    """Training, its images and the networks, loaded when first asked for."""
    if name in _MODULES:
        return _import_module(f".{name}", __name__)
    if name in _FROM_MODELS:
        return getattr(_import_module(".models", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_FROM_MODELS})


# No modules: `from fastconv import *` must not put fastconv's nn in the place of torch's.
__all__ = [
    "CNN",
    "CaseStudyCNN",
    "Conv2d",
    "ConvReLU2d",
    "ConvReLUMaxPool2d",
    "MaxPool2d",
    "ReLU",
    "SimpleCNN",
    "conv2d",
    "conv2d_relu",
    "conv2d_relu_max_pool2d",
    "convert",
    "decompositions",
    "explain",
    "get_precision",
    "info",
    "load_implementations",
    "max_pool2d",
    "relu",
    "resnet50",
    "revert",
    "set_precision",
    "squeezenet1_1",
]
