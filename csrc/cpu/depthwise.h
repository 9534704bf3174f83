// Code shared by the directions of a depthwise convolution. Vectors are over channels, which are cut into blocks, and a
// filter's position is a vector, too.
#pragma once

#include "gradient_rows.h"
#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t depthwise_bytes = 384 << 10;  // packed, per item: stays in L2
constexpr int64_t cache_bytes = 32 << 10;       // of L1
constexpr int64_t line_bytes = 64;
template <class T>
constexpr int64_t line_of = line_bytes / int64_t(sizeof(T));  // elements of a cache line

// Bytes of a block: of its filters, beside which L1 must hold some input, and of a pixel. Packed pixels are neighbors
// in memory, so larger blocks gain nothing. In place, long runs read faster.
struct BlockLimits {
    int64_t filters, pixel;
};
constexpr BlockLimits packed_limits = {13 << 10, 512}, in_place_limits = {18 << 10, 1536};

// The channels, cut into blocks of whole vectors as evenly as possible.
template <class T>
struct ChannelBlocks {
    int64_t channels, width, count;  // width: channels per block; the last one may have fewer

    explicit ChannelBlocks(const Conv2d& conv, bool in_place = false) : channels(conv.C) {
        const BlockLimits limits = in_place ? in_place_limits : packed_limits;
        const int64_t most_vectors =
            max(1, min(limits.pixel, limits.filters / (conv.R * conv.S)) / FASTCONV_VECTOR_BYTES);
        const int64_t vectors = ceil_div(channels, lanes<T>);
        width = ceil_div(vectors, ceil_div(vectors, most_vectors)) * lanes<T>;
        count = ceil_div(channels, width);
    }
    int64_t of(int64_t block) const { return min(width, channels - block * width); }
};

// Views the filters [K][1][R][S] as one filter, [1][K][R][S], for the copies of pack.h.
inline Tensor as_one_filter(const Tensor& w) {
    Tensor filter = w;
    filter.size[0] = 1, filter.size[1] = w.size[0];
    filter.stride[0] = 0, filter.stride[1] = w.stride[0];
    return filter;
}

// Whether vectors of channels can be read from t, or written to it, directly.
template <class T>
inline bool is_nhwc(const Tensor& t) {
    return t.stride[1] == 1 && element_bytes(t.dtype) == sizeof(T);
}

// A line of outputs along one axis. Output first + i * step, i < count, is the sum over t < taps of kernel position
// first_tap + t * tap_step times input start + i * stride + t * dilation.
struct Line {
    int64_t first, step, count;
    int64_t start, stride, dilation, taps;
    int64_t first_tap, tap_step;
};

// The outputs of a line that need these inputs only.
inline Range inner_pixels(const Line& line, Range inputs) {
    const int64_t first = max(0, ceil_div(max(0, inputs.first - line.start), line.stride));
    const int64_t room = inputs.last - line.start - (line.taps - 1) * line.dilation - 1;
    const int64_t last = room < 0 ? 0 : min(line.count, room / line.stride + 1);
    return {min(first, line.count), max(min(first, line.count), last)};
}

// Whether L1 can hold a line of each of this many pixels at once. It has few places for lines whose addresses differ by
// multiples of a power of two.
inline bool fit_in_cache(int64_t pixels, int64_t bytes_apart) {
    return pixels <= cache_bytes / max(line_bytes, bytes_apart & -bytes_apart);
}

// GCC considers a function that only prefetches free of effects, and drops its calls.
#define FASTCONV_PREFETCHES inline __attribute__((always_inline))

template <class T>
FASTCONV_PREFETCHES void prefetch_pixel(const T* pixel, int64_t channels) {
    for (int64_t c = 0; c < channels; c += line_of<T>) __builtin_prefetch(pixel + c, 0, 2);
}

constexpr const char* depthwise_condition = "one channel in and one out of each group, of two groups or more";

// Whether each group has one input and one output channel, and a row of all channels has a sane size.
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
