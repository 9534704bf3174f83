"""A memo table of prepared calls: calls whose arguments have been checked before.

Checking a call takes longer than a small operation. A prepared call is found again by all that the
check depended on: the tensors' sizes, strides, dtypes, devices and whether they require gradients,
all other arguments, and torch's modes and settings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .. import _C, precision, torch_internals


class MemoTable:
    """The prepared calls of one public function.

    `find(*arguments)` gives the prepared call, to be called with the tensors alone, or None where
    all checks have to be made. Compilers must not come here: they cannot look into `_C`.
    """

    def __init__(self, tensors: int) -> None:
        """
        Args:
            tensors: the number of tensors, which the function's arguments begin with.
        """
        settings = (
            *torch_internals.MODES,
            torch.get_num_threads,
            partial(getattr, precision, "implementation"),
        )
        table = _C.MemoTable(tensors, tuple(torch_internals.PLAIN_TYPES), settings)
        self.find: Callable[..., Callable[..., Any] | None] = table.find
        self._add, self._tensors = table.add, tensors

    def add(self, prepare: Callable[..., Callable[..., Any]], rest: tuple, *arguments: Any) -> None:
        """Remembers a checked call.

        Args:
            prepare: `prepare(*tensors, *rest)` makes the prepared call.
            rest: what follows the tensors there.
            arguments: the public function's.
        """
        tensors = arguments[: self._tensors]
        if torch_internals.undisturbed() and not torch_internals.any_without_memory(tensors):
            self._add(lambda: prepare(*tensors, *rest), *arguments)
