"""Tests DTensor: models over two processes, forward and backward, against torch.nn on one."""

import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
]

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
)
from torch.distributed.tensor.debug import CommDebugMode
import fastconv
from fastconv import functional as fc

def layers():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 6, (2, 4), padding="same", groups=2), nn.MaxPool2d(3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 5),
    ).double()

def X(n):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)

def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

def step(model, x):
    x = x.detach().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [whole(t) for t in (y, x.grad, *(p.grad for p in model.parameters()))]

def same(found, expected):
    torch.testing.assert_close(found, expected)

# Batches that two processes cannot share evenly too: one has more, or all.
def models(mesh):
    for n in (4, 3, 1):
        expected = step(layers(), X(n))
        for placement in (Shard(0), Replicate(), Shard(1)):
            for layout in (torch.contiguous_format, torch.channels_last):
                model = distribute_module(fastconv.convert(layers()), mesh)
                x = distribute_tensor(X(n).contiguous(memory_format=layout), mesh, [placement])
                same(step(model, x), expected)

def communication(mesh):
    model = distribute_module(fastconv.convert(layers()), mesh)
    x = distribute_tensor(X(4), mesh, [Shard(0)]).requires_grad_()
    with CommDebugMode() as communication:
        y = model(x)
        assert y.placements == (Shard(0),)
        y.sum().backward()
        assert x.grad.placements == (Shard(0),)
        for p in model.parameters():
            assert p.grad.placements in ((Partial(),), (Replicate(),)), p.grad.placements
    counts = {str(op): n for op, n in communication.get_comm_counts().items()}
    assert not any("gather" in op or "all_to_all" in op for op in counts), counts

# DTensor remembers how calls are sharded: other strides and paddings are other calls.
def same_shapes(mesh):
    w = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = X(4)
    def both(function):
        expected = function(x, w)
        found = function(
            distribute_tensor(x, mesh, [Shard(0)]), distribute_tensor(w, mesh, [Replicate()])
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == theirs.shape
            same(whole(ours), theirs)
    for stride, padding in ((1, 0), (2, 0), (1, 1), (2, 1)):
        both(lambda x, w: [fc.conv2d(x, w, None, stride, padding)])
        both(lambda x, w: [fc.conv2d_relu(x, w, None, stride, padding)])
        for pool in (2, 3):
            both(lambda x, w: [fc.conv2d_relu_max_pool2d(x, w, None, stride, padding,
                                                         pool_kernel_size=pool)])
            both(lambda x, w: [fc.max_pool2d(x, pool, stride)])
            both(lambda x, w: fc.max_pool2d(x, pool, stride, return_indices=True))
    both(lambda x, w: [fc.relu(x), fc.relu(x * 1, inplace=True)])
    both(lambda x, w: torch.ops.fastconv.relu(x, False)[:1])
    y = fc.max_pool2d(distribute_tensor(x, mesh, [Shard(1)]), 2)
    assert y.placements == (Shard(1),)
    same(whole(y), fc.max_pool2d(x, 2))

def train(model, x):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        # Each process has its part of the batch, and gradients are averaged.
        (model(x).square().sum() / len(x)).backward()
        optimizer.step()
    return [whole(p) for p in model.parameters()]

def fully_sharded(mesh):
    expected = train(layers(), X(4))
    model = fastconv.convert(layers())
    fully_shard(model, mesh=mesh)
    rank = dist.get_rank()
    same(train(model, X(4)[2 * rank : 2 * rank + 2]), expected)

def compiled(mesh):
    expected = step(layers(), X(4))
    model = distribute_module(fastconv.convert(layers()), mesh)
    graph = torch.compile(model, backend="aot_eager")
    x = distribute_tensor(X(4), mesh, [Shard(0)]).requires_grad_()
    y = graph(x)
    y.square().sum().backward()
    same([whole(t) for t in (y, x.grad, *(p.grad for p in model.parameters()))], expected)

def work(rank, store):
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (2,))
    for check in (models, communication, same_shapes, fully_sharded, compiled):
        check(mesh)
    dist.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
"""


def test_two_processes(tmp_path):
    script = tmp_path / "script.py"  # a file, since processes that are spawned read it again
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "store")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_dtensor_is_not_imported(run_python):
    done = run_python(
        "import sys, torch, fastconv\n"
        "x, w = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)\n"
        "fastconv.conv2d_relu(x, w)\n"
        "torch.func.vmap(fastconv.conv2d, (0, None))(x[None], w)\n"
        "print('torch.distributed.tensor' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
