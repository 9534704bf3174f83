// The winner of one pooling window, for max_pool2d and for pools behind a convolution.
#pragma once

#include "../common/geometry.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// The window positions i with 0 <= start + i * dilation < size.
struct Range {
    int64_t first, last;
};

inline Range valid_positions(int64_t start, int64_t dilation, int64_t window, int64_t size) {
    if (start >= 0 && start + (window - 1) * dilation < size) return {0, window};  // nearly always: no division
    const int64_t first = start >= 0 ? 0 : ceil_div(-start, dilation);
    const int64_t last = start >= size ? 0 : min(window, ceil_div(size - start, dilation));
    return first < last ? Range{first, last} : Range{0, 0};
}

// The values of one window, of elements E computed in T, for one vector of channels (V = Vec<T>) or one channel (V =
// T). Position (i, j) is at start + i * row_step + j * column_step.
template <class V, class E>
struct Window {
    const E* start;
    int64_t row_step, column_step;

    V operator()(int64_t i, int64_t j) const {
        const E* at = start + i * row_step + j * column_step;
        if constexpr (sizeof(V) == sizeof(Computed<E>)) return V(*at);
        else return load(at);
    }
};

// Compares v at `position` with the best so far: the first of equal values wins, among NaNs the last.
template <class V, class M>
inline void compare(V v, int position, V& best, M& winner) {
    const auto better = (v > best) | (v != v);
    best = select(better, v, best);
    winner = select(better, winner * 0 + position, winner);
}

// All of a window whose size is a compile-time constant: no loops.
template <int ROWS, int COLUMNS, class Values, class V, class M>
inline void find_winner(const Values& window, V& best, M& winner) {
    best = window(0, 0);
    winner = winner * 0;
#pragma GCC unroll 9
    for (int position = 1; position < ROWS * COLUMNS; ++position)
        compare(window(position / COLUMNS, position % COLUMNS), position, best, winner);
}

// The winner among rows x columns of a window with window_w columns. If these are empty, `best` and `winner` keep their
// values.
template <class Values, class V, class M>
inline void find_winner(int64_t window_w, Range rows, Range columns, const Values& window, V& best, M& winner) {
    const int64_t height = rows.last - rows.first, width = columns.last - columns.first;
    if (height <= 0 || width <= 0) return;
    const bool from_start = rows.first == 0 && columns.first == 0 && width == window_w;
    if (from_start && height == 2 && width == 2) return find_winner<2, 2>(window, best, winner);
    if (from_start && height == 3 && width == 3) return find_winner<3, 3>(window, best, winner);
    best = window(rows.first, columns.first);
    winner = winner * 0 + int(rows.first * window_w + columns.first);
    for (int64_t i = rows.first; i < rows.last; ++i)
        for (int64_t j = columns.first; j < columns.last;
             ++j)  // compares the first position with itself: equal, so it stays
            compare(window(i, j), int(i * window_w + j), best, winner);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
