// Lists of one filter's live gradients, made from its windows in a tile: a gradient and a code each.
#pragma once

#include "live.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// The windows of a tile, one after another. Each has the place of its first position, and the rows of positions inside
// the convolution's output, first_row <= i < last_row. A code's position (i, j) is i * row_step + j * column_step
// further.
struct Windows {
    int64_t count;
    const int32_t *place, *first_row, *last_row;
    int32_t row_step, column_step;
    int window_w;
};

// Calls body(live, place, g) for whole vectors of windows, then for single ones. Returns the sum of the live gradients.
template <class T, class Body>
inline double for_live(const Windows& windows, const T* dy, const uint8_t* code, const Body& body) {
    // code / window_w for any byte, without a division. It is exact, since 255 * 254 < 65536.
    const int reciprocal = (65536 + windows.window_w - 1) / windows.window_w;
    double sum = 0;
    int64_t at = 0;
    if constexpr (sizeof(T) == 4) {
        constexpr int W = lanes<T>;
        Vec<T> sums = {};
        for (; at + W <= windows.count; at += W) {
            const Mask<T> codes = load_bytes<T>(code + at);
            const Mask<T> i = (codes * reciprocal) >> 16, j = codes - i * windows.window_w;
            const Vec<T> g = load(dy + at);
            const Mask<T> live = (i >= load(windows.first_row + at)) & (i < load(windows.last_row + at)) & (g != 0);
            sums += select(live, g, Vec<T>{});
            body(live, load(windows.place + at) + i * windows.row_step + j * windows.column_step, g);
        }
        for (int i = 0; i < W; ++i) sum += sums[i];
    }
    for (; at < windows.count; ++at) {
        const int i = (code[at] * reciprocal) >> 16, j = code[at] - i * windows.window_w;
        const bool live = i >= windows.first_row[at] && i < windows.last_row[at] && dy[at] != 0;
        sum += select(live, dy[at], T(0));
        body(live, windows.place[at] + i * windows.row_step + j * windows.column_step, dy[at]);
    }
    return sum;
}

// Appends a filter's live gradients to a list; places are offsets. Returns their sum.
template <class T>
inline double list_windows(const Windows& windows, const T* dy, const uint8_t* code, int32_t* offsets, T* values,
                           int64_t& count) {
    return for_live(windows, dy, code,
                    [&](auto live, auto place, auto g) { append(live, place, g, offsets, values, count); });
}

// The positions that the windows of a tile cover, each once. A window's place is its first position's number among
// them.
template <class T>
struct Plane {
    int64_t size;           // of offset and g, rounded up to whole vectors
    const int32_t* offset;  // of each position
    T* g;                   // one per position, and one more; zeros between lists
};

// The same for overlapping windows: gradients of one position are added up to one entry of the list.
template <class T>
inline double list_merged(const Windows& windows, const Plane<T>& plane, const T* dy, const uint8_t* code,
                          int32_t* offsets, T* values, int64_t& count) {
    constexpr int W = lanes<T>;
    const double sum = for_live(windows, dy, code, [&](auto live, auto place, auto g) {
        if constexpr (sizeof(place) == sizeof(int)) {
            plane.g[live ? place : plane.size] += select(live, g, T(0));
        } else {
            const auto places = select(live, place, place * 0 + int(plane.size));
            const auto gradients = select(live, g, g * 0);
            for (int i = 0; i < W; ++i) plane.g[places[i]] += gradients[i];
        }
    });
    int64_t at = 0;
    if constexpr (sizeof(T) == 4)
        for (; at < plane.size; at += W) {
            const Vec<T> g = load(plane.g + at);
            append(g != 0, load(plane.offset + at), g, offsets, values, count);
            store(plane.g + at, Vec<T>{});
        }
    for (; at < plane.size; ++at) {
        append(plane.g[at] != 0, plane.offset[at], plane.g[at], offsets, values, count);
        plane.g[at] = 0;
    }
    return sum;
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
