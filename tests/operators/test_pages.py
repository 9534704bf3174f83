"""Tests that large outputs request huge pages. (Getting them depends on free memory.)"""

from pathlib import Path

import pytest

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# In a process of its own: in an old one, memory may lie where some had asked for them before.
CODE = """if True:
    import re, sys, torch
    from pathlib import Path
    import fastconv.functional as fc

    def flags(tensor):
        # Those of the mapping that the middle of a tensor lies in; hg: it is to have huge pages.
        text = Path("/proc/self/smaps").read_text()
        for mapping in re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
            first, end = (int(word, 16) for word in mapping.split(" ", 1)[0].split("-"))
            if first <= tensor.data_ptr() + tensor.nbytes // 2 < end:
                return re.search(r"VmFlags: (.*)", mapping)[1].split()
        raise AssertionError("no such mapping")

    x = torch.randn(1, 4, 1600, 1600)
    y = eval(sys.argv[1])
    assert y.nbytes >= 32 << 20
    assert "hg" in flags(y)
    assert "hg" not in flags(x)
"""


@pytest.mark.slow
@pytest.mark.skipif(not ENABLED.exists(), reason="needs Linux with transparent huge pages")
@pytest.mark.parametrize("operation", ["fc.relu(x)", "fc.max_pool2d(x, 2, 1)"])
def test_large_outputs(operation, run_python):
    # torch's own switch, which the command line turns on, would have x ask for them too.
    done = run_python(CODE, operation, THP_MEM_ALLOC_ENABLE="0")
    assert done.returncode == 0, done.stderr
