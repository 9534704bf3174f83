"""A problem is a convolution, a fused block or a max-pool with its sizes. Its text is a name:

    mb2ic16ih7iw7oc16kh5kw5sh1sw1ph2pw2dh1dw1g1_pool2x2s2x2p0x0d1x1c0_f32_nhwc

This is a fused block: a batch of 2 with 16 channels of 7x7, 16 filters of 5x5, stride, padding,
dilation, groups; a pool's window, stride, padding, dilation, ceil_mode; dtype; memory format. `pb`
and `pr` follow if bottom and right are padded otherwise than top and left. `_relu` in place of
`_pool...` means no pool; neither means the convolution alone. `_nobias` means no bias. Without `oc`
the problem is a max-pool alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from .geometry import ConvSpec, PoolSpec

HALF_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
DTYPES = {"f32": torch.float32, "f64": torch.float64} | HALF_DTYPES
TF32 = "tf32"  # float32 with TF32 products, on GPUs
LAYOUTS = ("nchw", "nhwc", "sliced", "transposed")

# Names of numbers in a problem's text: required, and with a default.
_SIZES = ("mb", "ic", "ih", "iw")
_CONV = ("oc", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw", "pb", "pr", "g")

Pair = tuple[int, int]


def _type(name: str) -> dict[str, Any]:
    """The fields of a Problem that a dtype's name sets."""
    return {"dtype": DTYPES.get(name, torch.float32), "tf32": name == TF32}


@dataclass(frozen=True)
class Pool:
    """A max-pool; each field is (height, width)."""

    window: Pair
    stride: Pair
    pad: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False

    def __str__(self) -> str:
        parts = zip("_spd", (self.window, self.stride, self.pad, self.dilation), strict=True)
        text = "".join(f"{name}{h}x{w}" for name, (h, w) in parts)
        return f"pool{text[1:]}c{int(self.ceil)}"

    @staticmethod
    def parse(text: str) -> Pool:
        """The pool of a text from str()."""
        pair = r"(\d+)x(\d+)"
        match = re.fullmatch(f"pool{pair}s{pair}p{pair}d{pair}c([01])", text)
        if match is None:
            raise ValueError(f"not a pool: {text!r}")
        v = [int(group) for group in match.groups()]
        return Pool((v[0], v[1]), (v[2], v[3]), (v[4], v[5]), (v[6], v[7]), bool(v[8]))

    def size(self, h: int, w: int) -> Pair:
        """Pooled height and width, as in torch; below 1 if the window does not fit."""
        sizes = []
        for i, extent in enumerate((h, w)):
            room = extent + 2 * self.pad[i] - self.dilation[i] * (self.window[i] - 1) - 1
            out = (room + (self.stride[i] - 1 if self.ceil else 0)) // self.stride[i] + 1
            if self.ceil and (out - 1) * self.stride[i] >= extent + self.pad[i]:
                out -= 1  # a window may not start behind the input
            sizes.append(out)
        return sizes[0], sizes[1]

    @property
    def spec(self) -> tuple[int, ...]:
        """The numbers in the order of `_C`."""
        return *self.window, *self.stride, *self.pad, *self.dilation

    @property
    def arguments(self) -> tuple:
        """The arguments of torch.nn.functional.max_pool2d."""
        return self.window, self.stride, self.pad, self.dilation, self.ceil


@dataclass(frozen=True, repr=False)
class Problem:
    """A convolution with its ReLU and pool, or (k = 0) a max-pool alone.

    Attributes:
        n, c, h, w: the input's sizes.
        k, r, s: filters and their height and width.
        pads: top, bottom, left, right.
        pool: the pool behind the ReLU, or None.
        relu: whether a ReLU follows the convolution. A pool implies it.
        tf32: whether operands may be rounded to TF32 (dtype is float32, on a GPU).
        layout: the input's: nchw, nhwc (channels_last), sliced (with gaps) or transposed.
    """

    n: int
    c: int
    h: int
    w: int
    k: int = 0
    r: int = 1
    s: int = 1
    stride: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: Pool | None = None
    relu: bool = False
    bias: bool = True
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    layout: str = "nchw"

    def __post_init__(self) -> None:
        if self.pool is not None and self.k:
            object.__setattr__(self, "relu", True)

    def __str__(self) -> str:
        text = f"mb{self.n}ic{self.c}ih{self.h}iw{self.w}"
        if self.k:
            top, bottom, left, right = self.pads
            text += f"oc{self.k}kh{self.r}kw{self.s}sh{self.stride[0]}sw{self.stride[1]}"
            text += f"ph{top}pw{left}dh{self.dilation[0]}dw{self.dilation[1]}"
            text += f"pb{bottom}pr{right}" if (bottom, right) != (top, left) else ""
            text += f"g{self.groups}"
        if self.pool is not None:
            text += f"_{self.pool}"
        elif self.relu:
            text += "_relu"
        if self.k and not self.bias:
            text += "_nobias"
        name = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        name = TF32 if self.tf32 else name
        return f"{text}_{name}_{self.layout}"

    def __repr__(self) -> str:
        return f'Problem.parse("{self}")'

    @staticmethod
    def parse(text: str) -> Problem:
        """The problem of a text from str(). Missing parts have their defaults.

        Raises:
            ValueError: the text is not a problem's.
        """
        head, *tail = text.split("_")
        if not re.fullmatch(r"([a-z]+\d+)+", head):
            raise ValueError(f"not a problem: {text!r}")
        v = {name: int(number) for name, number in re.findall(r"([a-z]+)(\d+)", head)}
        if not set(_SIZES) <= set(v) <= {*_SIZES, *_CONV}:
            raise ValueError(f"not a problem: {text!r}")
        top, left = v.get("ph", 0), v.get("pw", 0)
        fields: dict[str, Any] = {}
        for part in tail:
            if part.startswith("pool"):
                fields["pool"] = Pool.parse(part)
            elif part == "relu":
                fields["relu"] = True
            elif part == "nobias":
                fields["bias"] = False
            elif part in (*DTYPES, TF32):
                fields |= _type(part)
            elif part in LAYOUTS:
                fields["layout"] = part
            else:
                raise ValueError(f"not a part of a problem: {part!r} in {text!r}")
        return Problem(
            v["mb"],
            v["ic"],
            v["ih"],
            v["iw"],
            k=v.get("oc", 0),
            r=v.get("kh", 1),
            s=v.get("kw", 1),
            stride=(v.get("sh", 1), v.get("sw", 1)),
            pads=(top, v.get("pb", top), left, v.get("pr", left)),
            dilation=(v.get("dh", 1), v.get("dw", 1)),
            groups=v.get("g", 1),
            **fields,
        )

    def with_type(self, name: str) -> Problem:
        """The same problem with the dtype of that name."""
        return self.replace(**_type(name))

    def replace(self, **changes: Any) -> Problem:
        """The same problem with some fields changed."""
        return replace(self, **changes)

    @property
    def x_size(self) -> tuple[int, int, int, int]:
        """The input's shape."""
        return self.n, self.c, self.h, self.w

    @property
    def w_size(self) -> tuple[int, int, int, int]:
        """The weight's shape."""
        return self.k, self.c // self.groups, self.r, self.s

    @property
    def conv_size(self) -> tuple[int, int, int, int]:
        """The shape of the convolution's output; without a convolution, the input's."""
        if not self.k:
            return self.x_size
        p = self.h + self.pads[0] + self.pads[1] - self.dilation[0] * (self.r - 1) - 1
        q = self.w + self.pads[2] + self.pads[3] - self.dilation[1] * (self.s - 1) - 1
        return self.n, self.k, p // self.stride[0] + 1, q // self.stride[1] + 1

    @property
    def y_size(self) -> tuple[int, int, int, int]:
        """The output's shape."""
        n, k, p, q = self.conv_size
        return (n, k, p, q) if self.pool is None else (n, k, *self.pool.size(p, q))

    @property
    def conv_spec(self) -> ConvSpec:
        """The convolution as operators and `_C` take it."""
        return ConvSpec(*self.stride, *self.pads, *self.dilation, self.groups)

    @property
    def pool_spec(self) -> PoolSpec | None:
        """The pool as operators take it, or None."""
        return None if self.pool is None else PoolSpec._make((*self.pool.spec, int(self.pool.ceil)))

    @property
    def same(self) -> bool:
        """Whether the padding needs padding='same', since ints cannot express it."""
        total = [d * (n - 1) for d, n in zip(self.dilation, (self.r, self.s), strict=True)]
        pads = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        uneven = pads[0] != pads[1] or pads[2] != pads[3]
        return uneven and self.stride == (1, 1) and self.pads == pads

    @property
    def conv_arguments(self) -> tuple:
        """The arguments of torch.nn.functional.conv2d behind the bias.

        Raises:
            ValueError: no argument expresses the padding.
        """
        top, bottom, left, right = self.pads
        if not self.same and (top, left) != (bottom, right):
            raise ValueError(f"no padding argument means this: {self}")
        padding = "same" if self.same else (top, left)
        return self.stride, padding, self.dilation, self.groups

    @property
    def macs(self) -> int:
        """Multiply-adds of one pass."""
        n, k, p, q = self.conv_size
        return n * k * p * q * self.r * self.s * (self.c // self.groups)

    def valid(self) -> bool:
        """Whether torch takes such arguments."""
        _, _, p, q = self.conv_size
        fits = p >= 1 and q >= 1 and self.c % self.groups == 0 and self.k % self.groups == 0
        if self.pool is None or not fits:
            return fits
        pads = zip(self.pool.pad, self.pool.window, strict=True)
        padded = all(2 * pad <= window for pad, window in pads)
        return padded and min(self.pool.size(p, q)) >= 1
