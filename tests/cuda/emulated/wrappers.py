"""Cases of every wrapper of csrc/simt, with results computed from the wrappers' definitions.

Tests run this table in the emulated builds, and on a GPU if there is one.
"""

import dataclasses

import numpy as np

LANES = np.arange(32)


@dataclasses.dataclass
class Case:
    name: str
    entry: str
    arrays: list  # inputs; the last ones, as many as there are in `expected`, are outputs
    numbers: list
    expected: list
    tolerance: float = 0.0
    shared_bytes: int = 0  # of its block, if it is much

    def check(self, call):
        """call: a library's call(entry, arrays, numbers)."""
        arrays = [a.copy() for a in self.arrays]
        call(self.entry, arrays, self.numbers)
        outputs = arrays[len(arrays) - len(self.expected) :]
        for output, expected in zip(outputs, self.expected, strict=True):
            if self.tolerance:
                error = np.abs(output.astype(np.float64) - expected)
                bound = self.tolerance * np.abs(expected).max()
                assert error.max() <= bound, f"{self.name}: off by {error.max()}, allowed {bound}"
            else:
                np.testing.assert_array_equal(output, expected, err_msg=self.name)


def shuffles(rng):
    for name in ("f32", "i32", "f64", "i64"):
        dtype = np.dtype({"f": "float", "i": "int"}[name[0]] + name[1:])
        values = rng.integers(0, 256, 32 * dtype.itemsize).astype(np.uint8).view(dtype)
        values = np.nan_to_num(values) if dtype.kind == "f" else values
        wanted = [
            ("broadcast", [0, 7], np.full(32, 7)),
            ("reverse", [0, 32], 31 - LANES),
            *((f"xor {m}", [1, m], LANES ^ m) for m in (1, 2, 4, 8, 16, 31)),
            *(
                (f"down {d}", [2, d], np.where(LANES + d < 32, LANES + d, LANES))
                for d in (0, 1, 16, 31)
            ),
        ]
        for what, numbers, source in wanted:
            yield Case(
                f"shuffle {name} {what}",
                f"wrapper_shuffle_{name}",
                [values, np.zeros_like(values)],
                numbers,
                [values[source]],
            )


def ballots(rng):
    for bits in (0, 1, 2**31, 2**32 - 1, 0xDEADBEEF):
        votes = np.array([bits >> lane & 1 for lane in range(32)], np.uint32)
        yield Case(
            f"ballot {bits:x}",
            "wrapper_ballot",
            [votes, np.zeros(32, np.uint32)],
            [],
            [np.full(32, bits, np.uint32)],
        )


def indices(rng):
    x, y, z, threads = 3, 2, 2, 64
    expected = np.array(
        [
            (t, threads, t % 32, t // 32, i, j, k, x, y, z)
            for k in range(z)
            for j in range(y)
            for i in range(x)
            for t in range(threads)
        ],
        np.int32,
    ).ravel()
    yield Case("index", "wrapper_index", [np.zeros_like(expected)], [x, y, z, threads], [expected])


def bits(rng):
    a, b = (rng.integers(0, 2**32, 32, dtype=np.uint64) for _ in range(2))
    distances = np.concatenate([[0, 1, 15, 16, 31, 32, 33, 48, 63, 64, 65, 240, 255], range(2, 21)])
    orders = rng.integers(0, 8, (32, 4)) @ 16 ** np.arange(4)
    for name, by in (("shifts", distances), ("orders of bytes", orders)):
        rows = []
        for low, high, n in zip(a.tolist(), b.tolist(), by.tolist(), strict=True):
            shifted = (high << 32 | low) << n if n < 64 else 0
            bytes_ = (high << 32 | low).to_bytes(8, "little")
            chosen = bytes(bytes_[n >> 4 * i & 7] for i in range(4))
            shifted_low = low << n if n < 32 else 0
            words = (shifted_low, shifted, shifted >> 32, int.from_bytes(chosen, "little"))
            rows.append([word & 0xFFFFFFFF for word in words])
        inputs = [m.astype(np.uint32) for m in (a, b, by)]
        outputs = np.zeros((32, 4), np.uint32)
        yield Case(name, "wrapper_bits", [*inputs, outputs], [], [np.array(rows, np.uint32)])


def ldmatrix(rng):
    rows = rng.integers(0, 2**16, (32, 8)).astype(np.uint16)
    for matrices in (2, 4):
        for trans in (False, True):
            expected = np.zeros((32, matrices), np.uint32)
            for m in range(matrices):
                matrix = rows[8 * m : 8 * m + 8]
                matrix = matrix.T if trans else matrix
                # Row-major pairs, dealt out in the order of the lanes.
                pairs = np.ascontiguousarray(matrix).reshape(32, 2).astype(np.uint32)
                expected[:, m] = pairs[:, 0] + (pairs[:, 1] << 16)
            name = f"ldmatrix_x{matrices}" + ("_trans" if trans else "")
            yield Case(name, f"wrapper_{name}", [rows, np.zeros_like(expected)], [], [expected])


def bf16(values):
    """bfloat16 bits of float32 values, to nearest even, by comparison with both neighbors."""
    values = np.asarray(values, np.float32)
    below = (values.view(np.uint32) >> 16).astype(np.uint32)  # towards zero
    above = below + 1
    low = (below << 16).view(np.float32).astype(np.float64)
    # An infinite neighbor counts as the next power of two.
    high_bits = (above << 16).view(np.float32).astype(np.float64)
    high = np.where(
        np.isinf(high_bits), np.copysign(2.0**128, values.astype(np.float64)), high_bits
    )
    exact = values.astype(np.float64)
    closer_high = np.abs(high - exact) < np.abs(exact - low)
    tie = np.abs(high - exact) == np.abs(exact - low)
    bits = np.where(closer_high | (tie & (below % 2 == 1)), above, below)
    bits = np.where(np.isinf(values), below, bits)
    return np.where(np.isnan(values), 0x7FFF, bits).astype(np.uint32)


def tf32(values):
    """cvt.rna.tf32: the nearest multiple in the 19 upper bits, ties away from zero."""
    values = np.asarray(values, np.float32)
    magnitude = values.view(np.uint32).astype(np.int64) & 0x7FFFFFFF
    rounded = (magnitude + 2**12) // 2**13 * 2**13
    bits = rounded | (values.view(np.uint32).astype(np.int64) & 0x80000000)
    special = ~np.isfinite(values)
    bits = np.where(special, values.view(np.uint32), bits)
    return np.where(np.isnan(values), 0x7FFFFFFF, bits).astype(np.uint32)


def special_values(rng):
    edges = """
        0 -0 inf -inf nan 1 0x1p-149 3.4028235e38
        65504 65519.99 65520 65536 -65520 0x1p-14 0x1.ffcp-15 0x1p-24 0x1p-25 0x1.001p-25 0x3p-25
        0x1.01p0 0x1.03p0 0x1.002p0 0x1.006p0 0x1.004p0 -0x1.002p0
    """
    edges = np.array(
        [float.fromhex(v) if "x" in v else float(v) for v in edges.split()], np.float32
    )
    random = rng.integers(0, 2**32, 2000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    halves = (rng.standard_normal(2000) * 2.0 ** rng.integers(-26, 17, 2000)).astype(np.float32)
    every_half = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return np.concatenate([edges, random, halves, every_half])


def conversions(rng):
    values = special_values(rng)
    nan = np.isnan(values)
    half = np.where(nan, 0x7FFF, values.astype(np.float16).view(np.uint16)).astype(np.uint32)
    for name, bits, back in [
        ("tf32", tf32(values), tf32(values).view(np.float32)),
        ("bf16", bf16(values), (bf16(values) << 16).view(np.float32)),
        ("fp16", half, half.astype(np.uint16).view(np.float16).astype(np.float32)),
    ]:
        outputs = [np.zeros(values.size, np.uint32), np.zeros(values.size, np.float32)]
        yield Case(
            f"convert {name}",
            f"wrapper_convert_{name}",
            [values, *outputs],
            [values.size],
            [bits, back],
        )


def fragments(matrix, depth, rows):
    """Distributes A (rows of M) or B^T (rows of N) as in PTX: rows x depth to lanes x registers.

    Lane l has row l // 4 of each group of eight rows; of each half of the depth, the 4 bytes at
    l % 4. The registers count first through the groups of rows, then through the halves.
    """
    words = np.ascontiguousarray(matrix).view(np.uint32)
    assert words.shape == (rows, 8)
    by_group = words.reshape(rows // 8, 8, 2, 4)  # group, row, half, word
    return np.ascontiguousarray(by_group.transpose(1, 3, 2, 0)).reshape(32, -1)


def accumulators(matrix):
    """16 x 8 floats to 32 x 4: a lane has two neighbors of row l // 4, then of the row 8 below."""
    return np.ascontiguousarray(
        matrix.reshape(2, 8, 4, 2).transpose(1, 2, 0, 3).reshape(32, 4), dtype=np.float32
    )


def as_multiplied(name, matrix):
    """The elements' bits, and the values that a tensor core reads from them."""
    if name == "tf32":
        bits = matrix.view(np.uint32)
        return bits, (bits & 0xFFFFE000).view(np.float32)
    if name == "bf16":
        bits = bf16(matrix)
        return bits.astype(np.uint16), (bits << 16).view(np.float32)
    used = matrix.astype(np.float16)
    return used.view(np.uint16), used


def mma_inputs(rng, name, depth):
    """By kind: a, b^T and c."""
    shapes = ((16, depth), (8, depth), (16, 8))
    numbers = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    rounded = [tf32(m).view(np.float32) for m in numbers[:2]] if name == "tf32" else numbers[:2]
    yield "integers", [rng.integers(-8, 9, s).astype(np.float32) for s in shapes]
    yield "normal", [*rounded, numbers[2]]
    if name == "tf32":
        yield "bits that tf32 ignores", numbers


def mma(rng):
    for name, depth in (("tf32", 8), ("bf16", 16), ("fp16", 16)):
        for kind, (a, b, c) in mma_inputs(rng, name, depth):
            (a_bits, a_used), (b_bits, b_used) = (as_multiplied(name, m) for m in (a, b))
            exact = c + a_used.astype(np.float64) @ b_used.astype(np.float64).T
            yield Case(
                f"mma_{name} {kind}",
                f"wrapper_mma_{name}",
                [
                    fragments(a_bits, depth, 16),
                    fragments(b_bits, depth, 8),
                    accumulators(c),
                    np.zeros((32, 4), np.float32),
                ],
                [],
                [accumulators(exact)],
                tolerance=0.0 if kind == "integers" else 1e-6,
            )


def sparse_metadata(nibbles, selector, rng):
    """16 rows x 8 chunks of nibbles to the lanes; the rest, which do not count, at random."""
    lanes = rng.integers(0, 2**32, 32, dtype=np.uint64).astype(np.uint32)
    for row_in_group in range(8):
        for half in range(2):
            bits = 0
            for group in range(2):
                for i in range(4):
                    nibble = int(nibbles[row_in_group + 8 * group, 4 * half + i])
                    bits |= nibble << (16 * group + 4 * i)
            lanes[4 * row_in_group + 2 * selector + half] = bits
    return lanes


def mma_sp(rng):
    """Of every four elements of a row of A two are kept, in order; of tf32's two one."""
    for name, depth in (("tf32", 16), ("bf16", 32), ("fp16", 32)):
        for kind, (a, b, c) in mma_inputs(rng, name, depth):
            (a_bits, a_used), (b_bits, b_used) = (as_multiplied(name, m) for m in (a, b))
            if name == "tf32":
                kept = rng.integers(0, 2, (16, 8, 1))
                nibbles = np.where(kept[..., 0] == 0, 0x4, 0xE)
            else:
                kept = np.sort(rng.random((16, 8, 4)).argsort(-1)[..., :2], -1)
                nibbles = kept[..., 0] + 4 * kept[..., 1]
            chunks = a_used.reshape(16, 8, -1)
            zero = np.ones(chunks.shape, bool)
            np.put_along_axis(zero, kept, False, -1)
            dense = np.where(zero, 0, chunks).reshape(16, depth).astype(np.float64)
            exact = c + dense @ b_used.astype(np.float64).T
            bits = np.take_along_axis(a_bits.reshape(16, 8, -1), kept, -1).reshape(16, -1)
            by_lane = (
                fragments(b_bits[:, : depth // 2], depth, 8),
                fragments(b_bits[:, depth // 2 :], depth, 8),
            )
            for selector in range(2):
                yield Case(
                    f"mma_sp_{name} {kind}, selector {selector}",
                    f"wrapper_mma_sp_{name}_{selector}",
                    [
                        fragments(bits, depth, 16),
                        np.concatenate(by_lane, 1),
                        sparse_metadata(nibbles, selector, rng),
                        accumulators(c),
                        np.zeros((32, 4), np.float32),
                    ],
                    [],
                    [accumulators(exact)],
                    tolerance=0.0 if kind == "integers" else 1e-6,
                )


def copies(rng):
    for size in (4, 8, 16):
        n = size // 2
        data = rng.integers(1, 2**16, (64, n)).astype(np.uint16)
        valid = rng.integers(0, 2, 32).astype(np.uint32)
        expected = data.copy()
        expected[:32][valid == 0] = 0
        yield Case(
            f"copy_async of {size} bytes",
            f"wrapper_copy_{size}",
            [data, valid, np.zeros_like(data)],
            [],
            [expected],
        )


def packs(rng):
    for name, dtype, n in (
        ("f32x4", np.float32, 4),
        ("u16x8", np.uint16, 8),
        ("f64x2", np.float64, 2),
        ("u8x4", np.uint8, 4),
    ):
        data = rng.integers(0, 200, (32, n)).astype(dtype)
        reversed_ = np.ascontiguousarray(data[:, ::-1])
        yield Case(
            f"pack {name}", f"wrapper_pack_{name}", [data, np.zeros_like(data)], [], [reversed_]
        )


def shared(rng):
    for bytes_ in (1000, 48 << 10, 100 << 10, 160 << 10):
        data = rng.integers(0, 2**31, bytes_ // 4).astype(np.int32)
        yield Case(
            f"{bytes_} bytes of shared memory",
            "wrapper_shared",
            [data, np.zeros_like(data)],
            [data.size],
            [data[::-1].copy()],
            shared_bytes=bytes_,
        )


GROUPS = (
    shuffles,
    ballots,
    indices,
    bits,
    ldmatrix,
    conversions,
    mma,
    mma_sp,
    copies,
    packs,
    shared,
)


def cases():
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):  # NaN and infinity are among the values
        return [case for group in GROUPS for case in group(rng)]


def fitting(most_shared_bytes):
    """The cases for blocks with that much shared memory, and the cases that need more."""
    fit, too_large = [], []
    for case in cases():
        (fit if case.shared_bytes <= most_shared_bytes else too_large).append(case)
    return fit, too_large
