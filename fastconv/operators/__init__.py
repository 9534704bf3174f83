"""The operations: autograd formulas over `fastconv._C` and their registration with torch.

Arguments are taken as right here; `fastconv.functional` checks them.
"""

from . import _flops
from ._cuda import usable, why_not_on
from ._decompositions import decompositions
from ._eager import (
    autocast_dtype,
    constant,
    is_tensor_function,
    needs_torch,
    only_devices_are_set,
    unscriptable,
)
from ._known import Known
from ._limits import takes_conv2d, takes_max_pool2d
from ._marshal import KERNEL_DTYPES
from ._sharding import is_sharded
from .conv2d import conv2d, conv2d_dgrad, conv2d_wgrad
from .conv2d_relu import conv2d_relu, conv2d_relu_max_pool2d
from .max_pool2d import max_pool2d, max_pool2d_with_indices
from .relu import relu, relu_

__all__ = [
    "KERNEL_DTYPES",
    "Known",
    "autocast_dtype",
    "constant",
    "conv2d",
    "conv2d_dgrad",
    "conv2d_relu",
    "conv2d_relu_max_pool2d",
    "conv2d_wgrad",
    "decompositions",
    "is_sharded",
    "is_tensor_function",
    "max_pool2d",
    "max_pool2d_with_indices",
    "needs_torch",
    "only_devices_are_set",
    "relu",
    "relu_",
    "takes_conv2d",
    "takes_max_pool2d",
    "unscriptable",
    "usable",
    "why_not_on",
]

_flops.register()
