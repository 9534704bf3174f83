// What the directions of a depthwise convolution share: vectors are over channels, which go by blocks, and a filter's
// position is a vector too.
#pragma once

#include "gradient_rows.h"
#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t depthwise_bytes = 384 << 10;  // packed, of an item: what the second-level cache can hold
constexpr int64_t filters_bytes = 13 << 10;     // of a block: the first-level cache has to hold some input beside them
constexpr int64_t block_bytes = 512;            // of a pixel in a block: more serves nothing

// The channels cut into blocks of whole vectors, as even as can be.
template <class T>
struct ChannelBlocks {
    int64_t channels, width, count;  // width: channels of a block, but for what the last one lacks

    explicit ChannelBlocks(const Conv2d& conv) : channels(conv.C) {
        const int64_t most_vectors =
            max(1, min(block_bytes, filters_bytes / (conv.R * conv.S)) / FASTCONV_VECTOR_BYTES);
        const int64_t vectors = ceil_div(channels, lanes<T>);
        width = ceil_div(vectors, ceil_div(vectors, most_vectors)) * lanes<T>;
        count = ceil_div(channels, width);
    }
    int64_t of(int64_t block) const { return min(width, channels - block * width); }
};

// The filters [K][1][R][S] as one, [1][K][R][S], for the copies of pack.h.
inline Tensor as_one_filter(const Tensor& w) {
    Tensor filter = w;
    filter.size[0] = 1, filter.size[1] = w.size[0];
    filter.stride[0] = 0, filter.stride[1] = w.stride[0];
    return filter;
}

// Whether vectors of channels can be read from t, or written to it, as they are.
template <class T>
inline bool is_nhwc(const Tensor& t) {
    return t.stride[1] == 1 && element_bytes(t.dtype) == sizeof(T);
}

// Whether one channel goes in and one comes out of each group, and a row of all channels has a sane size.
inline bool is_depthwise(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    if (conv.N == 0 || conv.groups < 2 || conv.C != conv.groups || conv.K != conv.groups) return false;
    if (conv.P == 0 || conv.Q == 0 || problem.pool.P == 0 || problem.pool.Q == 0) return false;
    constexpr double limit = 1 << 21;  // pixels of some 512 bytes
    const double extent_h = double(conv.R) * double(conv.dilation_h);
    const double width =
        double(conv.Q) * double(conv.stride_w) + double(conv.S) * double(conv.dilation_w) + double(conv.W);
    const double window = double(problem.pool.window_h) * double(problem.pool.dilation_h);
    const double rows = (window < double(conv.P) ? window : double(conv.P)) * double(conv.stride_h) + extent_h;
    return rows * width < limit && double(conv.R) * double(conv.S) < limit;
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
