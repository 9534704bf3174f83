"""The reference results, by torch's own operators in the dtype of the arguments.

Winners are positions in a window, row by row, int64; -1 for none. A pool window without input never
reaches torch, whose backward pass would write outside of memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..problem import Pool, Problem


def conv2d(problem: Problem, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution alone."""
    top, bottom, left, right = problem.pads
    pad = (top, left)
    if (top, left) != (bottom, right):
        x, pad = F.pad(x, (left, right, top, bottom)), (0, 0)
    x, w = x.contiguous(), w.contiguous()
    return F.conv2d(x, w, bias, problem.stride, pad, problem.dilation, problem.groups)


def conv2d_grads(problem: Problem, x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, w and bias, given the gradient of the convolution's output."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    bias = w.new_zeros(problem.k, requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(conv2d(problem, x, w, bias), (x, w, bias), g.contiguous())


def windows(x: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """All windows' values [..., P, Q, positions] (-inf outside of x), and which lie inside."""
    p, q = pool.size(*x.shape[-2:])
    places = []
    for i, out in enumerate((p, q)):
        start = torch.arange(out) * pool.stride[i] - pool.pad[i]
        places.append(start[:, None] + torch.arange(pool.window[i]) * pool.dilation[i])
    rows = places[0][:, None, :, None].expand(p, q, *pool.window).flatten(2)
    columns = places[1][None, :, None, :].expand(p, q, *pool.window).flatten(2)
    h, w = x.shape[-2:]
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    values = x[..., rows.clamp(0, h - 1), columns.clamp(0, w - 1)]
    return values.masked_fill(~inside, -torch.inf), inside.expand_as(values)


def max_pool2d(x: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Pooled values and winners. The first of equal values wins, among NaNs the last."""
    values, inside = windows(x, pool)
    best = values[..., 0]
    winner = torch.where(inside[..., 0], 0, -1)
    for position in range(1, values.shape[-1]):
        value = values[..., position]
        better = inside[..., position] & ((value > best) | value.isnan() | (winner < 0))
        best = torch.where(better, value, best)
        winner = torch.where(better, position, winner)
    return best, winner


def scatter(problem: Problem, dy: Tensor, winner: Tensor) -> Tensor:
    """The gradient of a pool's input: the sum of dy at the winners' places."""
    assert problem.pool is not None
    full = dy.new_zeros(problem.conv_size)
    pool, (h, w) = problem.pool, problem.conv_size[2:]
    for position in winner.unique().tolist():
        if position < 0:
            continue
        i, j = divmod(position, pool.window[1])
        rows = torch.arange(dy.shape[2]) * pool.stride[0] - pool.pad[0] + i * pool.dilation[0]
        columns = torch.arange(dy.shape[3]) * pool.stride[1] - pool.pad[1] + j * pool.dilation[1]
        good = [(v >= 0) & (v < size) for v, size in ((rows, h), (columns, w))]
        part = torch.where(winner == position, dy, 0)[:, :, good[0]][:, :, :, good[1]]
        full[:, :, rows[good[0]][:, None], columns[good[1]]] += part
    return full


def forward(problem: Problem, x: Tensor, w: Tensor | None, bias: Tensor | None) -> Tensor:
    """The whole problem's output."""
    y = x if w is None else conv2d(problem, x, w, bias)
    if problem.pool is not None:
        y = max_pool2d(y, problem.pool)[0]
    return relu(y) if problem.relu else y


def relu(y: Tensor) -> Tensor:
    """ReLU, which keeps the -inf of a window without input."""
    return torch.where(y == -torch.inf, y, F.relu(y))


def smallest_gap(problem: Problem, x: Tensor, w: Tensor | None, bias: Tensor | None) -> float:
    """The distance to the nearest kink: ReLU's at 0, or a tie of a window's two largest values."""
    y = (x if w is None else conv2d(problem, x, w, bias)).double()
    gap = torch.inf
    if problem.pool is not None:
        values, _ = windows(y, problem.pool)
        top = values.topk(min(2, values.shape[-1]), dim=-1).values
        if top.shape[-1] == 2:
            gaps = (top[..., 0] - top[..., 1])[top[..., 0] > -torch.inf]
            gap = gaps.min().item() if len(gaps) else gap
        y = top[..., 0]
    return min(gap, y.abs().min().item()) if problem.relu else gap
