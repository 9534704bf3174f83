"""Large outputs lie in huge pages, where the system gives them to those who ask."""

import re
from pathlib import Path

import pytest
import torch

import fastconv.functional as fc

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_bytes(tensor):
    """How much of the mapping that a tensor lies in is in huge pages."""
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        first, end = (int(word, 16) for word in mapping.split(" ", 1)[0].split("-"))
        if first <= tensor.data_ptr() + tensor.nbytes // 2 < end:
            return int(re.search(r"AnonHugePages: *(\d+) kB", mapping)[1]) << 10
    return 0


@pytest.mark.quick
@pytest.mark.skipif(
    not ENABLED.exists() or "[never]" in ENABLED.read_text(), reason="no huge pages here"
)
@pytest.mark.parametrize("operation", [fc.relu, lambda x: fc.max_pool2d(x, 2, 1)])
def test_large_outputs(operation):
    x = torch.randn(1, 4, 1600, 1600)
    y = operation(x)
    assert y.nbytes >= 32 << 20
    assert huge_bytes(y) > y.nbytes // 2
