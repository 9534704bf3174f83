// The second pass of wgrad: dw and dbias are the sums of all splits' partial sums, [split][k][row].
//
// Splits are added in a fixed order, and their number depends on the geometry alone, so the bits do, too.
#pragma once

#include "conv2d_geometry.cuh"
#include "dtypes.h"

namespace fastconv::cuda {

template <class T>
struct WgradSumParameters {
    const Accumulator<T>* partial;
    T *dw, *dbias;  // may be null
    Strides strides;
    int64_t dbias_stride;
    Divider rows;
    Taps taps;
    int weight_rows, splits, count;  // count: sums per split
};

constexpr int wgrad_sum_threads = 256;

template <class T>
struct WgradSumMemory {
    Accumulator<T>* of_warps;
    FASTCONV_HOST_DEVICE explicit WgradSumMemory(simt::Shared& shared)
        : of_warps(shared.take<Accumulator<T>>(wgrad_sum_threads)) {}
};

// A warp adds every 8th split of 32 neighboring sums. The block then adds its 8 warps' results in order.
template <class T>
FASTCONV_KERNEL_BOUNDS(wgrad_sum_threads, 1)
conv2d_wgrad_sum_kernel(const WgradSumParameters<T> d) {
    using Acc = Accumulator<T>;
    constexpr int warps = wgrad_sum_threads / 32;
    simt::Shared shared = simt::block_shared();
    Acc* const of_warps = WgradSumMemory<T>(shared).of_warps;
    const int first = simt::block().x * 32, i = first + simt::lane();
    Acc sum = Acc(0);
    if (i < d.count)
        for (int split = simt::warp(); split < d.splits; split += warps) sum += d.partial[int64_t(split) * d.count + i];
    of_warps[simt::thread()] = sum;
    simt::sync();
    if (simt::warp() == 0 && i < d.count) {
        for (int warp = 1; warp < warps; ++warp) sum += of_warps[warp * 32 + simt::lane()];
        int row = i;
        const int k = d.rows.split(row);
        if (row < d.weight_rows) {
            const Tap t = d.taps.at(row);
            d.dw[d.strides.at(k, t.c, t.r, t.s)] = T(sum);
        } else {
            d.dbias[k * d.dbias_stride] = T(sum);
        }
    }
}

}  // namespace fastconv::cuda
