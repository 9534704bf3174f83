// Convolutions of a few pixels with many weights (a network's last layers, at small batches) spend their time on
// weights: these are read, or written, once, where they are. For that the input becomes a matrix of columns,
//
//   column[pixel][weight] = x[n, c, p * stride_h - pad_h + r * dilation_h, q * stride_w - pad_w + s * dilation_w]
//
// with a pixel's weights in the order in which a filter's lie side by side: (c, r, s), or in channels_last (r, s, c).
#pragma once

#include "micro_kernel.h"
#include "pack.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t most_column_pixels = 64;
constexpr int64_t least_column_weights = 1 << 17;

// Where a filter's weight (c, r, s) stands among its own, and how far filters lie apart.
struct Columns {
    int64_t pixels, weights, filter;
    int64_t c_step, s_step, r_step;
    bool in_place;  // whether filters lie in this order

    template <class T>
    Columns(const Conv2d& conv, const Tensor& w, T)
        : pixels(conv.N * conv.P * conv.Q), weights(conv.C * conv.R * conv.S), filter(w.stride[0]) {
        const bool channels_last = w.stride[1] == 1 && conv.C > 1;
        c_step = channels_last ? 1 : conv.R * conv.S, s_step = channels_last ? conv.C : 1, r_step = conv.S * s_step;
        in_place = element_bytes(w.dtype) == sizeof(T) && (conv.C == 1 || w.stride[1] == c_step) &&
                   (conv.R == 1 || w.stride[2] == r_step) && (conv.S == 1 || w.stride[3] == s_step);
    }
};

inline bool columns_apply(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    constexpr double limit = 1 << 28;
    const double pixels = double(conv.N) * double(conv.P) * double(conv.Q);
    const double weights = double(conv.C) * double(conv.R) * double(conv.S);
    return (problem.dtype == DType::float32 || problem.dtype == DType::float64) && conv.groups == 1 && pixels > 0 &&
           pixels <= most_column_pixels && weights * double(conv.K) < limit &&
           weights * double(conv.K) >= least_column_weights && conv.K >= 16 && conv.C >= 16 &&
           pixels * weights < limit && double(conv.H) * double(conv.W) < limit / 256;
}

// One of conv.N * conv.P * conv.R items: what kernel row r makes of row p of an image.
template <class T>
void pack_columns(const Conv2d& conv, const Columns& columns, const Tensor& x, int64_t item, T* column) {
    const int64_t r = item % conv.R, row = item / conv.R, p = row % conv.P, n = row / conv.P;
    const int64_t h = p * conv.stride_h - conv.pad_h + r * conv.dilation_h;
    column += row * conv.Q * columns.weights + r * columns.r_step;
    const auto clear = [&](T* to) {
        for (int64_t c = 0; c < conv.C; ++c) to[c * columns.c_step] = 0;
    };
    with_elements<T>(x, [&](const auto* data) {
        data += n * x.stride[0] + h * x.stride[2];
        for (int64_t s = 0; s < conv.S; ++s, column += columns.s_step) {
            const int64_t w = s * conv.dilation_w - conv.pad_w;  // of pixel 0
            const bool inside = h >= 0 && h < conv.H;
            const Range valid = inside ? valid_positions(w, conv.stride_w, conv.Q, conv.W) : Range{0, 0};
            for (int64_t q = 0; q < conv.Q; ++q)
                if (q < valid.first || q >= valid.last) clear(column + q * columns.weights);
            if (valid.first < valid.last)
                copy2d(valid.last - valid.first, conv.C, data + (w + valid.first * conv.stride_w) * x.stride[3],
                       conv.stride_w * x.stride[3], x.stride[1], column + valid.first * columns.weights,
                       columns.weights, columns.c_step);
        }
    });
}

// Some channels' weights of all filters, where the vectors are along weights: panels of 2 vectors, [panel][row][lane],
// of which a filter fills one row of each, or a pixel. A filter's weights lie in them as they do in memory, in pieces
// that are side by side: one, or in channels_last one for each of the kernel's positions.
template <class T>
struct Panels {
    static constexpr int64_t width = max_vectors * lanes<T>;
    static constexpr int64_t item_weights = 64;  // lines of memory that are worth going to
    int64_t channels, items, count;              // of an item at most, items, panels of an item

    explicit Panels(const Conv2d& conv)
        : channels(round_up(ceil_div(item_weights, conv.R * conv.S), lanes<T>)),
          items(ceil_div(conv.C, channels)),
          count(ceil_div(channels * conv.R * conv.S, width)) {}

    int64_t channels_of(const Conv2d& conv, int64_t item) const { return min(channels, conv.C - item * channels); }
    // Where weight (c, position) of an item is in a row.
    int64_t place(const Conv2d& conv, const Columns& columns, int64_t c, int64_t position, int64_t rows) const {
        const int64_t at = columns.c_step == 1 ? position * channels + c : c * conv.R * conv.S + position;
        return at / width * width * rows + at % width;
    }
    // body(offset in w from the filter's start, place in a row, count) for the vectors of an item's pieces.
    template <class Body>
    void each_vector(const Conv2d& conv, const Columns& columns, int64_t item, int64_t rows, const Body& body) const {
        const int64_t positions = conv.R * conv.S, of_item = channels_of(conv, item);
        const int64_t pieces = columns.c_step == 1 ? positions : 1, length = of_item * positions / pieces;
        for (int64_t piece = 0; piece < pieces; ++piece)
            for (int64_t i = 0; i < length; i += lanes<T>) {
                const int64_t at = piece * channels + i;
                body(piece * conv.C + item * channels * columns.c_step + i, at / width * width * rows + at % width,
                     min(lanes<T>, length - i));
            }
    }
};

// body(place, x's offset from image 0's (c, 0, 0)) for every pixel whose kernel position (r, s) lies in x, where a
// pixel is a row of panels.
template <class T, class Body>
void each_pixel(const Conv2d& conv, const int64_t (&stride)[4], int64_t r, int64_t s, const Body& body) {
    const int64_t w = s * conv.dilation_w - conv.pad_w;
    const Range valid = valid_positions(w, conv.stride_w, conv.Q, conv.W);
    for (int64_t n = 0; n < conv.N; ++n)
        for (int64_t p = 0; p < conv.P; ++p) {
            const int64_t h = p * conv.stride_h - conv.pad_h + r * conv.dilation_h;
            if (h < 0 || h >= conv.H) continue;
            const int64_t row = (n * conv.P + p) * conv.Q, x = n * stride[0] + h * stride[2] + w * stride[3];
            for (int64_t q = valid.first; q < valid.last; ++q)
                body((row + q) * Panels<T>::width, x + q * conv.stride_w * stride[3]);
        }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
