"""The kernels of `fastconv._C`, called with tensors: plans, buffers, workspaces, GPUs.

Nothing here knows autograd or how torch came to the call. Arguments are taken as right;
`fastconv.functional` checks them.
"""

from . import conv2d, max_pool2d, relu
from .buffers import KERNEL_DTYPES
from .gpus import usable, why_not_on
from .limits import takes_conv2d, takes_max_pool2d
from .memo_table import MemoTable

__all__ = [
    "KERNEL_DTYPES",
    "MemoTable",
    "conv2d",
    "max_pool2d",
    "relu",
    "takes_conv2d",
    "takes_max_pool2d",
    "usable",
    "why_not_on",
]
