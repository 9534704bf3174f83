"""A kernel's call for one geometry.

What follows from sizes, strides and settings is worked out once; and an entry of `_C` that has
checked its arguments gives back a call that takes new addresses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import _C
from . import _eager
from ._marshal import NO_WORKSPACE, Buffer, pack, workspace
from ._pages import FRESH_BYTES, ask_for_huge_pages

Form = tuple[Sequence[int], Sequence[int], torch.dtype]  # sizes, strides, dtype


def threads(like: Tensor) -> tuple[int, ...]:
    """The last argument of an entry that nothing else can be said to: on CPUs how many threads."""
    return (torch.get_num_threads(),) if like.is_cpu else ()


def _nbytes(form: Form | None) -> int:
    if form is None:
        return 0
    size, _, dtype = form
    return math.prod(size) * dtype.itemsize


class Plan:
    """Made once per geometry, setting and device; the functions that make them remember them."""

    __slots__ = (
        "again",
        "copies",
        "entry",
        "large",
        "on_gpu",
        "outputs",
        "seen",
        "workspace_bytes",
    )

    def __init__(
        self,
        entry: str,
        device: int,
        outputs: Sequence[Form | None] = (),
        copies: Sequence[torch.memory_format | None] = (),
        workspace_bytes: int | None = None,
        seen: Sequence[Sequence[int] | None] | None = None,
    ) -> None:
        """
        Args:
            entry: its name on CPUs.
            device: Tensor.get_device()'s.
            outputs: None: not wanted.
            copies: the memory formats that inputs are copied into, None for one taken as it is.
            workspace_bytes: None: the entry takes no workspace.
            seen: the sizes that the entry sees its tensors in, None for one's own.
        """
        self.entry = entry
        self.on_gpu = device >= 0
        self.outputs = outputs
        self.large = [not self.on_gpu and _nbytes(form) >= FRESH_BYTES for form in outputs]
        self.copies = copies if any(copies) else None
        self.workspace_bytes = workspace_bytes
        self.seen = seen
        self.again: Callable[..., None] | None = None

    def inputs(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Tensors as kernels take them."""
        if self.copies is None:
            return tensors
        return [
            t if copy is None else t.contiguous(memory_format=copy)
            for t, copy in zip(tensors, self.copies, strict=True)
        ]

    def output(self, i: int, device: torch.device) -> Tensor | None:
        """Memory for an output."""
        form = self.outputs[i]
        if form is None:
            return None
        size, stride, dtype = form
        tensor = torch.empty_strided(size, stride, dtype=dtype, device=device)
        if self.large[i]:
            ask_for_huge_pages(tensor)
        return tensor

    def run(
        self,
        tensors: Sequence[Tensor | None],
        geometry: Sequence[object],
        how: Sequence[object],
        pack: Callable[[Tensor | None], Buffer | None] = pack,
    ) -> None:
        """Calls the kernel.

        Args:
            tensors: the entry's, in its order, the first never None.
            geometry: what follows them, up to the workspace.
            how: the entry's last arguments, after device and stream on GPUs.
        """
        like = tensors[0]
        if self.on_gpu and _eager.cuda_device() != like.get_device():
            # By torch: where it goes back to a GPU without a context, it makes none there.
            with torch.cuda.device(like.get_device()):
                return self.run(tensors, geometry, how, pack)
        memory = workspace(self.workspace_bytes, like) if self.workspace_bytes else None
        if self.again is not None:
            if self.on_gpu:
                self.again(*tensors, memory, _eager.cuda_stream(like.get_device()))
            else:
                self.again(*tensors, memory)
            return
        if self.seen is not None:
            pairs = zip(tensors, self.seen, strict=True)
            tensors = [t if size is None else t.view(size) for t, size in pairs]
        arguments = [*map(pack, tensors), *geometry]
        if self.workspace_bytes is not None:
            arguments.append(NO_WORKSPACE if memory is None else pack(memory))
        if self.on_gpu:
            device = like.get_device()
            arguments += (device, _eager.cuda_stream(device))
        entry = getattr(_C, f"cuda_{self.entry}" if self.on_gpu else self.entry)
        self.again = entry(*arguments, *how)
