"""A kernel's call for one geometry.

All that follows from sizes, strides and settings is worked out once. An entry of `_C` that has
checked its arguments gives back a prepared call, which takes new addresses alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _C, torch_internals
from .buffers import EMPTY, Buffer, pack
from .huge_pages import FRESH_BYTES, ask_for_huge_pages
from .workspace import workspace

Form = tuple[Sequence[int], Sequence[int], torch.dtype]  # sizes, strides, dtype


def thread_options(like: Tensor) -> tuple[int, ...]:
    """The options of an entry that has no implementations to choose from: a CPU's threads."""
    return (torch.get_num_threads(),) if like.is_cpu else ()


def _nbytes(form: Form | None) -> int:
    if form is None:
        return 0
    size, _, dtype = form
    return math.prod(size) * dtype.itemsize


class Plan:
    """What a kernel's calls have in common, for one geometry, setting and device.

    The functions that make plans remember them.
    """

    __slots__ = (
        "copies",
        "entry",
        "huge",
        "kernel_sizes",
        "on_gpu",
        "outputs",
        "prepared",
        "workspace_bytes",
    )

    def __init__(
        self,
        entry: str,
        device: int,
        outputs: Sequence[Form | None] = (),
        copies: Sequence[torch.memory_format | None] = (),
        workspace_bytes: int | None = None,
        kernel_sizes: Sequence[Sequence[int] | None] | None = None,
    ) -> None:
        """
        Args:
            entry: the name that `_C`'s entry has for CPUs.
            device: as Tensor.get_device() gives it.
            outputs: their forms, None for one that is not wanted.
            copies: the memory formats that inputs are copied into, None for one taken as it is.
            workspace_bytes: None where the entry takes no workspace.
            kernel_sizes: the sizes in which the entry sees its tensors, None for a tensor's own.
        """
        self.entry = entry
        self.on_gpu = device >= 0
        self.outputs = outputs
        self.huge = [not self.on_gpu and _nbytes(form) >= FRESH_BYTES for form in outputs]
        self.copies = copies if any(copies) else None
        self.workspace_bytes = workspace_bytes
        self.kernel_sizes = kernel_sizes
        self.prepared: Callable[..., None] | None = None  # `_C`'s, from the first call on

    def inputs(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Tensors as kernels take them."""
        if self.copies is None:
            return tensors
        return [
            t if copy is None else t.contiguous(memory_format=copy)
            for t, copy in zip(tensors, self.copies, strict=True)
        ]

    def output(self, i: int, device: torch.device) -> Any:
        """Memory for an output: a tensor, or None for one that is not wanted."""
        form = self.outputs[i]
        if form is None:
            return None
        size, stride, dtype = form
        tensor = torch.empty_strided(size, stride, dtype=dtype, device=device)
        if self.huge[i]:
            ask_for_huge_pages(tensor)
        return tensor

    def run(
        self,
        tensors: Sequence[Tensor | None],
        specs: Sequence[object],
        options: Sequence[object],
        pack: Callable[[Tensor | None], Buffer | None] = pack,
    ) -> None:
        """Calls the kernel.

        Args:
            tensors: the entry's, in its order, the first never None.
            specs: the entry's arguments between its tensors and its workspace.
            options: the entry's last arguments, which on GPUs follow device and stream.
            pack: makes a tensor a buffer.
        """
        like: Any = tensors[0]
        if self.on_gpu and torch_internals.cuda_device() != like.get_device():
            # By torch: where it goes back to a GPU without a context, it makes none there.
            with torch.cuda.device(like.get_device()):
                return self.run(tensors, specs, options, pack)
        memory = workspace(self.workspace_bytes, like) if self.workspace_bytes else None
        if self.prepared is not None:
            if self.on_gpu:
                self.prepared(*tensors, memory, torch_internals.cuda_stream(like.get_device()))
            else:
                self.prepared(*tensors, memory)
            return
        self.prepared = self._first_call(tensors, specs, memory, options, pack)

    def _first_call(
        self,
        tensors: Sequence[Tensor | None],
        specs: Sequence[object],
        memory: Tensor | None,
        options: Sequence[object],
        pack: Callable[[Tensor | None], Buffer | None],
    ) -> Callable[..., None]:
        """Calls the kernel with all of `_C`'s checks; gives its prepared call."""
        like: Any = tensors[0]
        if self.kernel_sizes is not None:
            pairs = zip(tensors, self.kernel_sizes, strict=True)
            tensors = [t if t is None or size is None else t.view(size) for t, size in pairs]
        arguments = [*map(pack, tensors), *specs]
        if self.workspace_bytes is not None:
            arguments.append(EMPTY if memory is None else pack(memory))
        if self.on_gpu:
            device = like.get_device()
            arguments += (device, torch_internals.cuda_stream(device))
        entry = getattr(_C, f"cuda_{self.entry}" if self.on_gpu else self.entry)
        return entry(*arguments, *options)
