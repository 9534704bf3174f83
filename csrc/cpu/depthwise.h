// What the directions of a depthwise convolution share: vectors are over channels, which go by blocks, and a filter's
// position is a vector too.
#pragma once

#include "gradient_rows.h"
#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t depthwise_bytes = 384 << 10;  // packed, of an item: what the second-level cache can hold

constexpr int64_t filters_bytes = 13 << 10;  // of a block: the first-level cache has to hold some input beside them
constexpr int64_t block_bytes = 512;         // of a pixel in a block: more serves nothing

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

// A block of channels of some rows of an image, where vectors of channels can be read: packed, with the padding on the
// left and right in place, or as they are, without.
template <class T>
struct View {
    const T* data;
    int64_t first_row;
    Range columns;
    int64_t row, pixel;  // elements from one to the next

    const T* at(int64_t h, int64_t w) const { return data + (h - first_row) * row + (w - columns.first) * pixel; }
};

// Whether vectors of channels can be read from t, or written to it, as they are.
template <class T>
inline bool is_nhwc(const Tensor& t) {
    return t.stride[1] == 1 && element_bytes(t.dtype) == sizeof(T);
}
template <class T>
inline View<T> as_it_is(const Tensor& t, int64_t n, int64_t first_c) {
    return {static_cast<const T*>(t.data) + n * t.stride[0] + first_c, 0, {0, t.size[3]}, t.stride[2], t.stride[3]};
}
template <class T>
inline View<T> view_of(const T* packed, Range rows, const RowBlock& block) {
    return {packed, rows.first, {block.q0, block.q0 + block.width}, block.width * block.pixel, block.pixel};
}
template <class T>
inline View<T> pack_view(const Tensor& t, int64_t n, Range rows, const RowBlock& block, T* packed) {
    pack_rows(t, n, rows.first, rows.last - rows.first, block.q0, block.width, block.pixel, packed);
    return view_of(packed, rows, block);
}

// Outputs along one dimension: output first + i * step, i < count, is the sum over t < taps of the kernel's position
// first_tap + t * tap_step times input start + i * stride + t * dilation.
struct Line {
    int64_t first, step, count;
    int64_t start, stride, dilation, taps;
    int64_t first_tap, tap_step;

    // Behind the last input that any sees.
    int64_t end() const { return start + (count - 1) * stride + (taps - 1) * dilation + 1; }
    // Those for which all taps lie in `inputs`.
    Range inside(Range inputs) const {
        const int64_t end = inputs.last - start - (taps - 1) * dilation;
        const int64_t first_i = min(count, ceil_div(max(0, inputs.first - start), stride));
        return {first_i, max(first_i, min(count, ceil_div(max(0, end), stride)))};
    }
    Range taps_in(Range inputs, int64_t i) const {
        return valid_positions(start + i * stride - inputs.first, dilation, taps, inputs.last - inputs.first);
    }
    // Calls run(outputs, taps) for all outputs, each with the taps that lie in `inputs`: one by one near the edges.
    template <class Run>
    void for_each_run(Range inputs, const Run& run) const {
        const Range whole = inside(inputs);
        for (int64_t i = 0; i < whole.first; ++i) run(Range{i, i + 1}, taps_in(inputs, i));
        if (whole.first < whole.last) run(whole, Range{0, taps});
        for (int64_t i = whole.last; i < count; ++i) run(Range{i, i + 1}, taps_in(inputs, i));
    }
};
inline Line fprop_line(int64_t outputs, int64_t window, int64_t stride, int64_t pad, int64_t dilation) {
    return {0, 1, outputs, -pad, stride, dilation, window, 0, 1};
}

// Whether to read x as it is: where its elements have too few uses each to repay packing, and few outputs see padding.
template <class T>
inline bool read_in_place(const Conv2d& conv, const Tensor& x) {
    const Range whole = fprop_line(conv.Q, conv.S, conv.stride_w, conv.pad_w, conv.dilation_w).inside({0, conv.W});
    return is_nhwc<T>(x) && conv.R * conv.S <= 4 * conv.stride_h * conv.stride_w &&
           (whole.last - whole.first) * 4 >= conv.Q * 3;
}

// The filters [K][1][R][S] as one, [1][K][R][S], for the copies of pack.h.
inline Tensor as_one_filter(const Tensor& w) {
    Tensor filter = w;
    filter.size[0] = 1, filter.size[1] = w.size[0];
    filter.stride[0] = 0, filter.stride[1] = w.stride[0];
    return filter;
}

// Whether one channel goes in and one comes out of each group, and a row of all channels has a sane size.
inline bool is_depthwise(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    if (conv.N == 0 || conv.groups < 2 || conv.C != conv.groups || conv.K != conv.groups) return false;
    if (conv.P == 0 || conv.Q == 0 || problem.pool.P == 0 || problem.pool.Q == 0) return false;
    constexpr double limit = 1 << 22;
    const double extent_h = double(conv.R) * double(conv.dilation_h);
    const double width =
        double(conv.Q) * double(conv.stride_w) + double(conv.S) * double(conv.dilation_w) + double(conv.W);
    const double window = double(problem.pool.window_h) * double(problem.pool.dilation_h);
    const double rows = (window < double(conv.P) ? window : double(conv.P)) * double(conv.stride_h) + extent_h;
    return rows * width < limit && double(conv.R) * double(conv.S) < limit;
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
