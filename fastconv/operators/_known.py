"""The shortest way: a plain call whose arguments have been checked before, for the same forms.

Checking a call takes longer than a small operation. What a check depends on is remembered: sizes,
strides, dtypes, devices and whether gradients are wanted, together with all other arguments and
torch's modes and settings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .. import _C, precision
from . import _eager


class Known:
    """The calls of one public function.

    `find(*arguments)` gives what to call with the tensors instead, None where all checks have to be
    made. Not for compilers, which cannot look into `_C`.
    """

    def __init__(self, tensors: int) -> None:
        implementation = partial(getattr, precision, "implementation")
        settings = (*_eager.MODES, torch.get_num_threads, implementation)
        forms = _C.MemoTable(tensors, tuple(_eager.PLAIN_TYPES), settings)
        self.find, self._add, self._tensors = forms.find, forms.add, tensors

    def add(self, operation: Callable[..., Any], rest: tuple, *arguments: Any) -> None:
        """Remembers a checked call.

        Args:
            operation: what `define` gave.
            rest: its arguments behind the tensors.
            arguments: the public function's; the tensors, which come first, are the operation's.
        """
        tensors = arguments[: self._tensors]
        if _eager.undisturbed() and not _eager.any_without_memory(tensors):
            self._add(lambda: operation.bound(*tensors, *rest), *arguments)
