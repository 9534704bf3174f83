// Lists of live gradients, and the kernel that both sparse gradients of a convolution use.
//
// A gradient g is live if its code is not dead and it is not zero. For every entry of a list the kernel adds g times a
// piece of the input (wgrad) or of a filter (dgrad). Dead gradients cost nothing: behind ReLU and a 2x2 pool they are
// more than three of four.
#pragma once

#include "../common/geometry.h"
#include "pack.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int max_accumulators = 12;  // 16 vector registers hold these beside an operand and g

// The part of an image, and of a filter, that belongs to one output position. In a packed image `channels` channels are
// neighbors, and the next pixel is `pixel` elements further. The part is outer x rows slabs of `length` neighboring
// elements each. A slab is a whole kernel row if kernel columns touch and a pixel holds nothing else. Otherwise it is
// the channels of one kernel position.
//
// A packed filter is [outer][rows][vectors * lanes], padded with zeros.
template <class T>
struct Slabs {
    bool whole_rows;
    int64_t outer, rows, length;
    int64_t outer_step, row_step;  // between slabs, in the packed image
    int64_t vectors, filter_size;  // vectors: per slab; filter_size: elements of a packed filter
    int64_t r_step, s_step;        // between kernel positions, in a packed filter
    // A filter is cut for the registers: rows by rows_at_once, slabs into pieces of vectors_at_once.
    int64_t rows_at_once, vectors_at_once, row_groups, pieces;

    Slabs(const Conv2d& conv, int64_t width, int64_t pixel, int64_t channels) {
        whole_rows = pixel == channels && conv.dilation_w == 1;
        const int64_t h_step = conv.dilation_h * width * pixel, w_step = conv.dilation_w * pixel;
        outer = whole_rows ? 1 : conv.R, outer_step = h_step;
        rows = whole_rows ? conv.R : conv.S, row_step = whole_rows ? h_step : w_step;
        length = whole_rows ? conv.S * channels : channels;
        vectors = ceil_div(length, lanes<T>);
        filter_size = outer * rows * vectors * lanes<T>;
        s_step = whole_rows ? channels : vectors * lanes<T>;
        r_step = (whole_rows ? 1 : conv.S) * vectors * lanes<T>;
        pieces = ceil_div(vectors, max_accumulators);
        vectors_at_once = ceil_div(vectors, pieces);
        pieces = ceil_div(vectors, vectors_at_once);
        row_groups = ceil_div(rows, max_accumulators / vectors_at_once);
        rows_at_once = ceil_div(rows, row_groups);
        row_groups = ceil_div(rows, rows_at_once);
    }
};

// Vectors of one piece.
template <class T>
inline int64_t piece_vectors(const Slabs<T>& slabs, int64_t piece) {
    return min(slabs.vectors_at_once, slabs.vectors - piece * slabs.vectors_at_once);
}

// Neighboring lists: list i has entries first[i * step] to last[i * step] of (offset, g).
template <class T>
struct Lists {
    const int32_t* offset;
    const T* g;
    const int64_t *first, *last;
    int64_t step, count;
};

// For every list: to[row][v] += sum over its entries of g * from[offset][row][v], for ROWS x VECTORS vectors. The next
// list's `to` is to_step further. With `first_sum`, `to` is written, not added to. The sum starts at zero, so that it
// need not wait for a `to` that the list before may just have written.
template <class T, int ROWS, int VECTORS>
void accumulate(const Lists<T>& lists, const T* from, int64_t from_row, T* to, int64_t to_row, int64_t to_step,
                bool first_sum) {
    constexpr int W = lanes<T>;
    const int64_t *first = lists.first, *last = lists.last;
    for (int64_t list = 0; list < lists.count; ++list, to += to_step, first += lists.step, last += lists.step) {
        if (*first == *last && !first_sum) continue;
        Vec<T> acc[ROWS][VECTORS] = {};
        for (int64_t i = *first; i < *last; ++i) {
            const T* at = from + lists.offset[i];
            const Vec<T> value = splat(lists.g[i]);
#pragma GCC unroll 12
            for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 12
                for (int v = 0; v < VECTORS; ++v) acc[row][v] += value * load(at + row * from_row + v * W);
        }
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 12
            for (int v = 0; v < VECTORS; ++v) {
                T* at = to + row * to_row + v * W;
                store(at, first_sum ? acc[row][v] : load(at) + acc[row][v]);
            }
    }
}

template <class T>
using Accumulate = void (*)(const Lists<T>&, const T*, int64_t, T*, int64_t, int64_t, bool);

// Calls accumulate<T, rows, vectors> for numbers known at run time.
template <class T, int ROWS = 1, int VECTORS = 1>
Accumulate<T> accumulate_for(int64_t rows, int64_t vectors) {
    if constexpr (VECTORS < max_accumulators && ROWS == 1)
        if (vectors > VECTORS) return accumulate_for<T, ROWS, VECTORS + 1>(rows, vectors);
    if constexpr ((ROWS + 1) * VECTORS <= max_accumulators)
        if (rows > ROWS) return accumulate_for<T, ROWS + 1, VECTORS>(rows, vectors);
    return accumulate<T, ROWS, VECTORS>;
}

// Room that must follow a list's last entry, since lists are written in whole vectors.
constexpr int list_slack = 16;

#if defined(__AVX2__)
// Byte i of entry m: the lane that moves to place i when the lanes set in m move to the front.
struct FrontLanes {
    uint8_t lane[256][8];
    constexpr FrontLanes() : lane() {
        for (int m = 0; m < 256; ++m)
            for (int i = 0, n = 0; i < 8; ++i)
                if (m >> i & 1) lane[m][n++] = uint8_t(i);
    }
};
constexpr FrontLanes front_lanes;
#endif

// Appends the live lanes of (offset, g) to a list of `count` entries.
inline void append(Mask<float> live, Mask<float> offset, Vec<float> g, int32_t* offsets, float* values,
                   int64_t& count) {
    const unsigned mask = bits<float>(live);
#if defined(__AVX512F__)
    _mm512_storeu_si512(offsets + count, _mm512_maskz_compress_epi32(__mmask16(mask), (__m512i)offset));
    _mm512_storeu_ps(values + count, _mm512_maskz_compress_ps(__mmask16(mask), (__m512)g));
#elif defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    const __m256i order =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(front_lanes.lane[mask])));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(offsets + count),
                        _mm256_permutevar8x32_epi32((__m256i)offset, order));
    _mm256_storeu_ps(values + count, _mm256_permutevar8x32_ps((__m256)g, order));
#else
    int64_t at = count;
    for (int i = 0; i < lanes<float>; ++i) {
        offsets[at] = offset[i];
        values[at] = g[i];
        at += mask >> i & 1;
    }
#endif
    count += __builtin_popcount(mask);
}

// The same for one lane.
template <class T>
inline void append(bool live, int32_t offset, T g, int32_t* offsets, T* values, int64_t& count) {
    offsets[count] = offset;
    values[count] = g;
    count += live;
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
