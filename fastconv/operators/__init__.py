"""The operations: autograd formulas over the kernels and their registration with torch.

Arguments are taken as right here; `fastconv.functional` checks them.
"""

from . import flops
from .conv2d import conv2d, conv2d_dgrad, conv2d_wgrad
from .conv2d_relu import conv2d_relu, conv2d_relu_max_pool2d
from .decompositions import decompositions
from .max_pool2d import max_pool2d, max_pool2d_with_indices
from .relu import relu, relu_
from .sharding import is_sharded

__all__ = [
    "conv2d",
    "conv2d_dgrad",
    "conv2d_relu",
    "conv2d_relu_max_pool2d",
    "conv2d_wgrad",
    "decompositions",
    "is_sharded",
    "max_pool2d",
    "max_pool2d_with_indices",
    "relu",
    "relu_",
]

flops.register()
