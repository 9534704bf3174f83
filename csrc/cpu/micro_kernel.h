// The register-blocked product at the heart of the forward kernels:
//
//   acc[i][v] += x[pixel i][t] * w[t][vector v]     for PIXELS x VECTORS accumulators
//
// PIXELS is what the registers hold beside two vectors of weights and one of x: 6, with AVX-512's 32
// registers 12. What a pixel is, and where its elements lie, is the caller's.
#pragma once

#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

#if defined(__AVX512F__) || FASTCONV_VECTOR_BYTES == 64
constexpr int max_pixels = 12;
#else
constexpr int max_pixels = 6;
#endif
constexpr int max_vectors = 2;

// A stretch of the reduction that lies side by side in the packed input.
struct Part {
    int32_t offset, length;
};

// out[i][v] = bias[v] (null: out[i][v] itself) + the sum over the parts. offsets[i]: pixel i's first element.
template <class T, int PIXELS, int VECTORS>
void micro_kernel(const T* x, const int32_t* offsets, const Part* part, const Part* last_part, const T* w,
                  const T* bias, T* out) {
    constexpr int W = lanes<T>;
    Vec<T> acc[PIXELS][VECTORS];
#pragma GCC unroll 12
    for (int i = 0; i < PIXELS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) acc[i][v] = load(bias ? bias + v * W : out + (i * VECTORS + v) * W);
    for (; part < last_part; ++part) {
        const T* pixel[PIXELS];
#pragma GCC unroll 12
        for (int i = 0; i < PIXELS; ++i) pixel[i] = x + offsets[i] + part->offset;
        for (int64_t t = 0; t < part->length; ++t, w += VECTORS * W) {
            Vec<T> weight[VECTORS];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) weight[v] = load(w + v * W);
#pragma GCC unroll 12
            for (int i = 0; i < PIXELS; ++i) {
                const Vec<T> value = splat(pixel[i][t]);
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; ++v) acc[i][v] += value * weight[v];
            }
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < PIXELS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) store(out + (i * VECTORS + v) * W, acc[i][v]);
}

template <class T>
using MicroKernel = void (*)(const T*, const int32_t*, const Part*, const Part*, const T*, const T*, T*);

// micro_kernel<T, pixels, VECTORS> for a number known at run time.
template <class T, int VECTORS, int PIXELS = max_pixels>
MicroKernel<T> micro_kernel_for(int64_t pixels) {
    if constexpr (PIXELS > 1)
        if (pixels < PIXELS) return micro_kernel_for<T, VECTORS, PIXELS - 1>(pixels);
    return micro_kernel<T, PIXELS, VECTORS>;
}

// Pixels in groups of nearly the same size, none larger than max_pixels, so that all fill the registers.
template <class T, int VECTORS>
class PixelGroups {
public:
    explicit PixelGroups(int64_t pixels) : count_(ceil_div(pixels, max_pixels)) {
        least_ = count_ ? pixels / count_ : 0, larger_ = count_ ? pixels % count_ : 0;
        small_ = micro_kernel_for<T, VECTORS>(least_), large_ = micro_kernel_for<T, VECTORS>(least_ + 1);
    }
    // micro_kernel for all pixels; out is [pixel][VECTORS * lanes].
    void run(const T* x, const int32_t* offsets, const Part* first, const Part* last, const T* w, const T* bias,
             T* out) const {
        int64_t pixel = 0;
        for (int64_t g = 0; g < count_; ++g) {
            (g < larger_ ? large_ : small_)(x, offsets + pixel, first, last, w, bias, out + pixel * VECTORS * lanes<T>);
            pixel += least_ + (g < larger_);
        }
    }

private:
    int64_t count_, least_, larger_;
    MicroKernel<T> small_, large_;
};

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
