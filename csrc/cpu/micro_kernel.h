// The register-blocked product at the heart of the forward kernels:
//
//   acc[i][v] += x[pixel i][t] * w[t][vector v]     for PIXELS x VECTORS accumulators
//
// PIXELS is the number that fits into registers beside two vectors of weights and one of x: 6, or 12 with the 32
// registers of AVX-512. A single vector of weights leaves room for 10 pixels, where 6 would wait for their own sums.
// The caller decides what a pixel is and where its elements are. t counts terms (terms.h).
#pragma once

#include "terms.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

#if defined(__AVX512F__) || FASTCONV_VECTOR_BYTES == 64
constexpr int max_pixels = 12;
#else
constexpr int max_pixels = 6;
#endif
constexpr int max_vectors = 2;
template <int VECTORS>
constexpr int most_pixels = VECTORS == 1 && max_pixels < 10 ? 10 : max_pixels;

// A part of the reduction that is one run of the packed input, from `offset` on: `length` elements in whole terms, of
// which the last may lack elements. Its weights follow those of the part before, after a gap of `skip` terms.
struct Part {
    int32_t offset, length, skip;
};

// Offsets of a pixel's first element in the packed input, and of its first sum in an output of one vector per pixel.
struct Pixel {
    int32_t offset, place;
};

// out[pixel][v] = bias[v] (if null: out[pixel][v] itself) + the sum over the parts. The sum is added as a whole: long
// reductions that are cut into passes then lose fewer digits.
template <class E, int PIXELS, int VECTORS>
void micro_kernel(const E* x, const Pixel* pixels, const Part* part, const Part* last_part, const E* w,
                  const Computed<E>* bias, Computed<E>* out) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    constexpr int64_t w_step = VECTORS * W * term<E>;
    Vec<T> acc[PIXELS][VECTORS];
#pragma GCC unroll 12
    for (int i = 0; i < PIXELS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) acc[i][v] = bias ? load(bias + v * W) : Vec<T>{};
    for (; part < last_part; ++part) {
        const E* x_at[PIXELS];
#pragma GCC unroll 12
        for (int i = 0; i < PIXELS; ++i) x_at[i] = x + pixels[i].offset + part->offset;
        w += part->skip * w_step;
        const int64_t whole = part->length / term<E> * term<E>;
        for (int64_t t = 0; t < whole; t += term<E>, w += w_step) {
            Terms<E> weight[VECTORS];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) weight[v] = load_terms(w + v * W * term<E>);
#pragma GCC unroll 12
            for (int i = 0; i < PIXELS; ++i) {
                const Terms<E> value = splat_term(x_at[i] + t);
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; ++v) acc[i][v] = multiply_add<E>(value, weight[v], acc[i][v]);
            }
        }
        if constexpr (term<E> > 1) {
            if (whole == part->length) continue;
#pragma GCC unroll 12
            for (int i = 0; i < PIXELS; ++i)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; ++v)
                    acc[i][v] =
                        multiply_add<E>(splat_single(x_at[i] + whole), load_terms(w + v * W * term<E>), acc[i][v]);
            w += w_step;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < PIXELS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) {
            T* at = out + int64_t(pixels[i].place) * VECTORS + v * W;
            store(at, bias ? acc[i][v] : load(at) + acc[i][v]);
        }
}

template <class E>
using MicroKernel = void (*)(const E*, const Pixel*, const Part*, const Part*, const E*, const Computed<E>*,
                             Computed<E>*);

// Returns micro_kernel<E, pixels, VECTORS> for a number known at run time.
template <class E, int VECTORS, int PIXELS = most_pixels<VECTORS>>
MicroKernel<E> micro_kernel_for(int64_t pixels) {
    if constexpr (PIXELS > 1)
        if (pixels < PIXELS) return micro_kernel_for<E, VECTORS, PIXELS - 1>(pixels);
    return micro_kernel<E, PIXELS, VECTORS>;
}

// `count` groups of `size` pixels each, from pixel `first` on.
struct PixelGroups {
    int64_t first, count, size;
};

// Pixels in groups of nearly equal size, none above `most`, so that all fill the registers: first the larger groups,
// then those with one pixel fewer.
inline void split_evenly(int64_t first, int64_t pixels, PixelGroups (&groups)[2], int64_t most = max_pixels) {
    const int64_t count = ceil_div(pixels, most), size = count ? pixels / count : 0;
    const int64_t larger = pixels - count * size;
    groups[0] = {first, larger, size + 1};
    groups[1] = {first + larger * (size + 1), count - larger, size};
}

// Runs micro_kernel for all of these groups.
template <class E, int VECTORS>
void run_groups(const PixelGroups& groups, const E* x, const Pixel* pixels, const Part* first, const Part* last,
                const E* w, const Computed<E>* bias, Computed<E>* out) {
    PixelGroups wider[2] = {groups, {}};
    if (most_pixels<VECTORS> > max_pixels)
        split_evenly(groups.first, groups.count * groups.size, wider, most_pixels<VECTORS>);
    for (const PixelGroups& some : wider) {
        if (some.count == 0) continue;
        const MicroKernel<E> kernel = micro_kernel_for<E, VECTORS>(some.size);
        for (int64_t g = 0; g < some.count; ++g)
            kernel(x, pixels + some.first + g * some.size, first, last, w, bias, out);
    }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
