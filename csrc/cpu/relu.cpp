// ReLU forward and backward over dense arrays, one bit per element kept for backward.
#include "isa_kernels.h"
#include "parallel.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t block = 1 << 15;  // elements an item takes; a multiple of 8, so that it owns its mask bytes

template <class E>
void fprop(const E* x, E* y, uint8_t* mask, int64_t count, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    parallel_for(threads, ceil_div(count, block), [=](int64_t item, int) {
        const int64_t end = min(count, (item + 1) * block);
        int64_t i = item * block;
        constexpr int step = W < 8 ? 8 : W;
        for (; i + step <= end; i += step) {
            unsigned live = 0;
            for (int j = 0; j < step; j += W) {
                const Vec<T> v = load(x + i + j);
                live |= bits<T>(~(v <= T(0))) << j;
                store(y + i + j, select(v < T(0), Vec<T>{}, v));
            }
            if (mask) std::memcpy(mask + i / 8, &live, step / 8);  // little-endian
        }
        for (; i < end; ++i) {
            const T v = T(x[i]);
            if (mask) {
                if (i % 8 == 0) mask[i / 8] = 0;
                mask[i / 8] |= uint8_t(unsigned(!(v <= 0)) << (i % 8));
            }
            y[i] = E(v < 0 ? T(0) : v);
        }
    });
}

template <class E>
void bprop(const E* dy, const uint8_t* mask, E* dx, int64_t count, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    parallel_for(threads, ceil_div(count, block), [=](int64_t item, int) {
        const int64_t end = min(count, (item + 1) * block);
        int64_t i = item * block;
        constexpr int step = W < 8 ? 8 : W;
        Mask<T> bit;
        for (int j = 0; j < W; ++j) bit[j] = 1 << j;
        for (; i + step <= end; i += step) {
            unsigned live = 0;
            std::memcpy(&live, mask + i / 8, step / 8);  // little-endian
            for (int j = 0; j < step; j += W)
                store(dx + i + j, select(((Mask<T>{} + int(live >> j)) & bit) != 0, load(dy + i + j), Vec<T>{}));
        }
        for (; i < end; ++i) dx[i] = mask[i / 8] >> (i % 8) & 1 ? dy[i] : E(T(0));
    });
}

}  // namespace

void relu_fprop(DType dtype, const void* x, void* y, uint8_t* mask, int64_t count, int threads) {
    with_any_elements(dtype, [=](auto element) {
        using E = decltype(element);
        fprop(static_cast<const E*>(x), static_cast<E*>(y), mask, count, threads);
    });
}

void relu_bprop(DType dtype, const void* dy, const uint8_t* mask, void* dx, int64_t count, int threads) {
    with_any_elements(dtype, [=](auto element) {
        using E = decltype(element);
        bprop(static_cast<const E*>(dy), mask, static_cast<E*>(dx), count, threads);
    });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
