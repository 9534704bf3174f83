"""Huge pages for large tensors on CPUs.

From 32 MB on glibc takes an allocation's memory from the system and gives it back when it is freed.
So every large output is new memory, whose pages the system finds and clears as they are written to:
in pages of 4 KB at 1.4 GB/s where that was measured, in pages of 2 MB at 7 GB/s. Most Linux systems
give such pages to those who ask (/sys/kernel/mm/transparent_hugepage/enabled: madvise).
"""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor

FRESH_BYTES = 32 << 20  # the most that glibc's threshold for this ever is
_PAGE = 2 << 20
_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux alone has it

if _HUGE is not None:
    _madvise = ctypes.CDLL(None).madvise
    _madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def ask_for_huge_pages(tensor: Tensor) -> None:
    """For new memory on a CPU. A hint: where it is refused all goes on as before."""
    if _HUGE is None:
        return
    first, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    first, end = -(-first // _PAGE) * _PAGE, end // _PAGE * _PAGE
    if first < end:
        _madvise(first, end - first, _HUGE)
