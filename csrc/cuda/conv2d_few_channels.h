// The condition under which the few-channels kernels take a convolution, and its split into rectangles.
#pragma once

#include "conv2d_few_channels.cuh"
#include "conv2d_launch.h"
#include "cycles.h"

namespace fastconv::cuda {

// Shared memory per block on every GPU from sm_80 on.
constexpr int few_channels_most_bytes = 99 * 1024;

// Cuts the convolution's output into the rectangles with the least estimated time. A rectangle has at most `pixels`
// pixels, its halo at most `most` bytes. Returns false if no rectangle fits.
inline bool cut(FewChannelsLayout& layout, const Conv2d& c, const Pool2d& windows, int pixels, int most,
                int element_bytes, int apart) {
    const Geometry conv(c);
    layout.pool = PoolGeometry(windows);
    const PoolGeometry& pool = layout.pool;
    most /= element_bytes;
    // The largest number of neighboring windows, up to `count`, that cover at most `room` pixels.
    const auto fitting = [](int room, int count, int stride, int window, int dilation) {
        const int64_t rest = room - PoolTiling::covered(1, stride, window, dilation);
        return rest < 0 ? 0 : least(count, int(rest / stride) + 1);
    };
    int64_t fastest = 0;
    for (int width = 8; width <= pixels; width += 8) {
        PoolTiling tiling;
        tiling.width = width;
        tiling.pooled_w = fitting(width, pool.Q, pool.stride_w, pool.window_w, pool.dilation_w);
        tiling.pooled_h = fitting(pixels / width, pool.P, pool.stride_h, pool.window_h, pool.dilation_h);
        if (tiling.pooled_w == 0 || tiling.pooled_h == 0) continue;
        tiling.height = int(PoolTiling::covered(tiling.pooled_h, pool.stride_h, pool.window_h, pool.dilation_h));
        tiling.tiles_h = int(ceil_div(pool.P, tiling.pooled_h)),
        tiling.tiles_w = int(ceil_div(pool.Q, tiling.pooled_w));

        const int64_t h = (tiling.height - 1) * c.stride_h + (c.R - 1) * c.dilation_h + 1;
        const int64_t w = (width - 1) * c.stride_w + (c.S - 1) * c.dilation_w + 1;
        if (h > most || w > most || h * w > most) continue;
        const Halo halo(conv, tiling.height, width, element_bytes, apart);
        if (halo.size(conv.channels) > most) continue;

        // Estimated: multiplying one pixel of a tile takes as long as loading three pixels of x.
        const int64_t rectangles = int64_t(conv.N) * tiling.tiles_h * tiling.tiles_w;
        const int64_t time = rectangles * (3 * pixels + h * w);
        if (rectangles > most_reached || (fastest && time >= fastest)) continue;
        fastest = time;
        layout.tiling = tiling, layout.halo = halo;
        layout.rectangles = int(rectangles);
    }
    layout.tiles_h = Divider(layout.tiling.tiles_h), layout.tiles_w = Divider(layout.tiling.tiles_w);
    layout.width = Divider(layout.tiling.width);
    return fastest > 0;
}

constexpr const char* few_channels_condition =
    "float16, bfloat16 or TF32, one group of 1 to 7 channels, 9 filters or more, and kernels that fit shared memory";

// Calls run(a value of the tile's type) with the tile that suits the number of filters, and returns its result. Returns
// Result() for problems with many channels, and for those with so few filters that a tile would be mostly empty.
template <template <class> class Tiles, class Result, class Run>
Result with_few_channels_tile(const Conv2dProblem& problem, const Run& run) {
    const Conv2d& conv = problem.conv;
    if (conv.groups != 1 || conv.C < 1 || conv.C >= 8 || conv.K <= 8) return Result();
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        if constexpr (sizeof(T) <= 4) {
            if (sizeof(T) == 4 && !problem.tf32) return Result();
            if (conv.K > 32) return run(typename Tiles<T>::wide());
            return run(typename Tiles<T>::narrow());
        } else {
            return Result();
        }
    });
}

}  // namespace fastconv::cuda
