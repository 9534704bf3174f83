// ReLU forward and backward over dense arrays. Forward keeps one bit per element for backward.
#include "isa_kernels.h"
#include "parallel.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t block = 1 << 13;  // elements per item, one or two microseconds (estimated)
constexpr int word = 32;            // elements per step; their mask bits are stored together

template <bool SAVE, class E>
void fprop(const E* x, E* y, uint8_t* mask, int64_t count, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    parallel_for_even(threads, ceil_div(count, block), [=](int64_t item) {
        const int64_t end = min(count, (item + 1) * block);
        int64_t i = item * block;
        for (; i + word <= end; i += word) {
            uint32_t live = 0;
#pragma GCC unroll 8
            for (int j = 0; j < word; j += W) {
                const Vec<T> v = load(x + i + j);
                if constexpr (SAVE) live |= uint32_t(bits<T>(~(v <= T(0)))) << j;
                store(y + i + j, select(v < T(0), Vec<T>{}, v));
            }
            if constexpr (SAVE) std::memcpy(mask + i / 8, &live, sizeof(live));  // little-endian
        }
        for (; i < end; ++i) {
            const T v = T(x[i]);
            if constexpr (SAVE) {
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
    parallel_for_even(threads, ceil_div(count, block), [=](int64_t item) {
        const int64_t end = min(count, (item + 1) * block);
        int64_t i = item * block;
        Mask<T> bit;
        for (int l = 0; l < W; ++l) bit[l] = 1 << l;
        for (; i + word <= end; i += word) {
            uint32_t live;
            std::memcpy(&live, mask + i / 8, sizeof(live));  // little-endian
#pragma GCC unroll 8
            for (int j = 0; j < word; j += W)
                store(dx + i + j, select(((Mask<T>{} + int(live >> j)) & bit) != 0, load(dy + i + j), Vec<T>{}));
        }
        for (; i < end; ++i) dx[i] = mask[i / 8] >> (i % 8) & 1 ? dy[i] : E(T(0));
    });
}

}  // namespace

void relu_fprop(DType dtype, const void* x, void* y, uint8_t* mask, int64_t count, int threads) {
    with_any_elements(dtype, [=](auto element) {
        using E = decltype(element);
        (mask ? fprop<true, E> : fprop<false, E>)(static_cast<const E*>(x), static_cast<E*>(y), mask, count, threads);
    });
}

void relu_bprop(DType dtype, const void* dy, const uint8_t* mask, void* dx, int64_t count, int threads) {
    with_any_elements(dtype, [=](auto element) {
        using E = decltype(element);
        bprop(static_cast<const E*>(dy), mask, static_cast<E*>(dx), count, threads);
    });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
