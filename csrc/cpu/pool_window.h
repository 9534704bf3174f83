// The winner of one pooling window, for pools of their own and for those behind a convolution.
#pragma once

#include "../common/geometry.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// The window positions i for which start + i * dilation lies in [0, size).
struct Range {
    int64_t first, last;
};

inline Range valid_positions(int64_t start, int64_t dilation, int64_t window, int64_t size) {
    const int64_t first = start >= 0 ? 0 : ceil_div(-start, dilation);
    const int64_t last = start >= size ? 0 : min(window, ceil_div(size - start, dilation));
    return {first, max(first, last)};
}

// One window for the channels of one vector (V, M) or for one channel (T, int): at(i, j) is the value at
// position (i, j). The first of equal values wins, among NaNs the last. Where nothing is in the window,
// `best` and `winner` stay as they came.
template <class V, class M, class Load>
inline void find_winner(int64_t window_w, Range rows, Range columns, const Load& at, V& best, M& winner) {
    if (rows.first >= rows.last || columns.first >= columns.last) return;
    best = at(rows.first, columns.first);
    winner = winner * 0 + int(rows.first * window_w + columns.first);
    for (int64_t i = rows.first; i < rows.last; ++i) {
        for (int64_t j = columns.first; j < columns.last; ++j) {
            const V v = at(i, j);  // the first position once more: equal, so it stays (a NaN, too)
            const auto better = (v > best) | (v != v);
            best = select(better, v, best);
            winner = select(better, winner * 0 + int(i * window_w + j), winner);
        }
    }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
