"""Tests saved programs in a new process: they need `import fastconv`, and the error says so.

A program's operators are looked up by name when it is loaded. torch has no hook for a missing name,
so the message is torch's. It contains the namespace, fastconv.
"""

import pytest
import torch
from torch import nn

import fastconv

pytestmark = pytest.mark.slow

LOADING = """
import sys, torch
if "import it" in sys.argv:
    import fastconv
x, expected = torch.load("tensors.pt")
load = {
    "export": lambda: torch.export.load("net.pt2").module(),
    "aot_inductor": lambda: torch._inductor.aoti_load_package("net.aoti.pt2"),
    "jit": lambda: torch.jit.load("net.pt"),
}[sys.argv[1]]
with torch.no_grad():
    torch.testing.assert_close(load()(x), expected)
assert "import it" in sys.argv
print("the same")
"""


def save(kind, folder):
    """A network of every layer as a program, an input and its output."""
    torch.manual_seed(0)
    model = nn.Sequential(
        fastconv.Conv2d(3, 4, 3),
        fastconv.ConvReLU2d(4, 4, 3),
        fastconv.ConvReLUMaxPool2d(4, 4, 3, pool_kernel_size=2),
        fastconv.ReLU(),
        fastconv.MaxPool2d(2),
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.save((x, model(x)), folder / "tensors.pt")
        if kind == "jit":
            torch.jit.save(torch.jit.trace(model, (x,)), folder / "net.pt")
            return
        program = torch.export.export(model, (x,))
        if kind == "export":
            torch.export.save(program, folder / "net.pt2")
        else:
            path = str(folder / "net.aoti.pt2")
            torch._inductor.aoti_compile_and_package(program, package_path=path)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("export", "failed to resolve torch.ops.fastconv.conv2d.default"),
        ("aot_inductor", "Could not find schema for fastconv::"),
        ("jit", "Unknown builtin op: fastconv::conv2d"),
    ],
)
def test_a_new_process(kind, says, tmp_path, run_python):
    save(kind, tmp_path)
    missing = run_python(LOADING, kind)
    assert missing.returncode != 0 and says in missing.stderr
    there = run_python(LOADING, kind, "import it")
    assert there.stdout.strip() == "the same", there.stderr
