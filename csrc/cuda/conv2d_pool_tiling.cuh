// PoolTiling cuts an image's pooled pixels into blocks and says which pixels of the convolution's output each needs.
#pragma once

#include "conv2d_geometry.cuh"

namespace fastconv::cuda {

// A block owns pooled_h x pooled_w pooled pixels. Its rows are height x width pixels of the convolution's output,
// step_h and step_w apart. Where one window has more pixels than a tile has rows, the block makes several passes.
struct PoolTiling {
    int pooled_h = 1, pooled_w = 1;  // of a block
    int tiles_h = 1, tiles_w = 1;    // blocks of an image
    int height = 1, width = 1, step_h = 1, step_w = 1, passes = 1;

    PoolTiling() = default;
    // The rectangle with the fewest blocks, the widest of equals.
    PoolTiling(const PoolGeometry& pool, int rows) {
        int64_t fewest = 0;
        for (int w = 1; w <= least(pool.Q, rows); ++w) {
            const int64_t covered_w = covered(w, pool.stride_w, pool.window_w, pool.dilation_w);
            if (covered_w > rows) break;
            int h = 0;
            while (h < pool.P && covered(h + 1, pool.stride_h, pool.window_h, pool.dilation_h) * covered_w <= rows) ++h;
            if (h == 0) continue;
            const int64_t blocks = int64_t(ceil_div(pool.P, h)) * ceil_div(pool.Q, w);
            if (fewest && blocks > fewest) continue;
            fewest = blocks;
            pooled_h = h, pooled_w = w;
        }
        tiles_h = ceil_div(pool.P, pooled_h), tiles_w = ceil_div(pool.Q, pooled_w);
        if (fewest) {
            height = int(covered(pooled_h, pool.stride_h, pool.window_h, pool.dilation_h));
            width = int(covered(pooled_w, pool.stride_w, pool.window_w, pool.dilation_w));
        } else {
            height = pool.window_h, width = pool.window_w;
            step_h = pool.dilation_h, step_w = pool.dilation_w;
            passes = ceil_div(height * width, rows);
        }
    }

    // Pixels from the first to the last of `count` neighboring windows along one axis.
    static int64_t covered(int64_t count, int64_t stride, int64_t window, int64_t dilation) {
        return (count - 1) * stride + (window - 1) * dilation + 1;
    }
};

}  // namespace fastconv::cuda
