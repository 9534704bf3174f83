"""Generates random valid problems for hypothesis, small enough for the plain kernels."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from ..problem import DTYPES, LAYOUTS, Pair, Pool, Problem

# Limits per problem: multiply-adds, and values that the pool reads.
MAX_WORK = 1_500_000


def _pair(elements: st.SearchStrategy[int]) -> st.SearchStrategy[Pair]:
    return st.tuples(elements, elements)


@st.composite
def pools(draw: st.DrawFn, max_positions: int = 254) -> Pool:
    """Pools that overlap, have gaps, are padded or dilated; sometimes with a large window."""
    window = draw(st.one_of(_pair(st.integers(1, 4)), st.just((2, 2)), _pair(st.integers(1, 20))))
    assume(window[0] * window[1] <= max_positions)
    stride = draw(st.one_of(st.just(window), _pair(st.integers(1, 4))))
    pad = (draw(st.integers(0, window[0] // 2)), draw(st.integers(0, window[1] // 2)))
    dilation = draw(st.one_of(st.just((1, 1)), _pair(st.integers(1, 3))))
    return Pool(window, stride, pad, dilation, draw(st.booleans()))


def _room(draw: st.DrawFn, pool: Pool | None, i: int) -> int:
    """The extent of the pool's input, from the smallest valid one."""
    least = 1
    if pool is not None:
        least = max(1, pool.dilation[i] * (pool.window[i] - 1) + 1 - 2 * pool.pad[i])
    return least + draw(st.integers(0, 17))


@st.composite
def pool_problems(draw: st.DrawFn, max_positions: int = 400, max_work: int = MAX_WORK) -> Problem:
    """A max-pool alone."""
    pool = draw(pools(max_positions))
    problem = Problem(
        draw(st.integers(1, 3)),
        draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 19, 32]))),
        _room(draw, pool, 0),
        _room(draw, pool, 1),
        pool=pool,
        dtype=draw(st.sampled_from(list(DTYPES.values()))),
        layout=draw(st.sampled_from(LAYOUTS)),
    )
    n, c, p, q = problem.y_size
    assume(n * c * p * q * pool.window[0] * pool.window[1] <= max_work)
    return problem


@st.composite
def conv_problems(
    draw: st.DrawFn,
    after: str = "nothing",
    for_functional: bool = False,
    some_pools: st.SearchStrategy[Pool] | None = None,
) -> Problem:
    """A convolution with `after`: nothing, relu or pool, any or one of `some_pools`.

    Half of them suit the fast kernels: one group, no dilation, channels in multiples of vectors (or
    3 for the input), more often float32.
    """
    common = draw(st.booleans())
    pool = draw(some_pools or pools()) if after == "pool" else None
    r, s = draw(st.one_of(_pair(st.integers(1, 5)), st.sampled_from([(3, 3), (5, 5), (7, 7)])))
    stride = draw(st.one_of(st.just((1, 1)), _pair(st.integers(1, 3))))
    dilation = (1, 1)
    if common:
        groups, c = 1, draw(st.sampled_from([1, 3, 8, 16, 32, 64]))
        k = draw(st.sampled_from([8, 16, 24, 32, 64]))
    else:
        groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
        c, k = (groups * draw(st.integers(1, 9)) for _ in range(2))
        if draw(st.booleans()):
            dilation = draw(_pair(st.integers(1, 3)))
        if draw(st.booleans()) and draw(st.booleans()):
            k, groups = c * draw(st.sampled_from([1, 1, 1, 2])), c  # depthwise
    padding = draw(st.sampled_from(["none", "even", "same", "any"]))
    extents = (dilation[0] * (r - 1) + 1, dilation[1] * (s - 1) + 1)
    if padding == "none":
        pads = (0, 0, 0, 0)
    elif padding == "same":
        stride = (1, 1)
        half = [(e - 1) // 2 for e in extents]
        pads = (half[0], extents[0] - 1 - half[0], half[1], extents[1] - 1 - half[1])
    elif padding == "even" or for_functional:
        # Up to slightly more than the kernel, for outputs that see only padding.
        top, left = (draw(st.integers(0, extent + 1)) for extent in extents)
        pads = (top, top, left, left)
    else:
        top, bottom, left, right = (draw(st.integers(0, 4)) for _ in range(4))
        pads = (top, bottom, left, right)
    sizes = []
    for i in range(2):
        out = _room(draw, pool, i)
        size = (out - 1) * stride[i] + extents[i] - pads[2 * i] - pads[2 * i + 1]
        sizes.append(max(1, size + draw(st.integers(0, stride[i] - 1))))
    problem = Problem(
        draw(st.integers(1, 3)),
        c,
        sizes[0],
        sizes[1],
        k,
        r,
        s,
        stride,
        pads,
        dilation,
        groups,
        pool,
        relu=after != "nothing",
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from([*DTYPES.values(), DTYPES["f32"]])),
        layout=draw(st.sampled_from(LAYOUTS)),
    )
    looked_at = 0
    if pool is not None:
        n, k, p, q = problem.y_size
        looked_at = n * k * p * q * pool.window[0] * pool.window[1]
    assume(problem.valid() and problem.macs + looked_at <= MAX_WORK)
    return problem
