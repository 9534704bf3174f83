// Kernels in which each thread takes one item after another: blocks of `item_threads` threads, as many as fill any
// GPU a few times over, and a step of the whole grid from one item to a thread's next.
#pragma once

#include "../simt/simt.h"

namespace fastconv::cuda {

constexpr int item_threads = 256;
constexpr int64_t most_item_blocks = 1 << 14;

inline simt::Dim item_blocks(int64_t items) {
    const int64_t blocks = (items + item_threads - 1) / item_threads;
    return {int(blocks < most_item_blocks ? blocks : most_item_blocks), 1, 1};
}

FASTCONV_DEVICE int64_t first_item() { return int64_t(simt::block().x) * item_threads + simt::thread(); }
FASTCONV_DEVICE int64_t item_step() { return int64_t(simt::grid().x) * item_threads; }

// Quotient and remainder of what is not negative. Almost always both fit 32 bits, where a division costs a
// fraction of one of 64.
struct Division {
    int64_t quotient, remainder;
};
FASTCONV_DEVICE Division divide(int64_t a, int64_t b) {
    if ((a | b) >> 32 == 0) {
        const uint32_t quotient = uint32_t(a) / uint32_t(b);
        return {int64_t(quotient), int64_t(uint32_t(a) - quotient * uint32_t(b))};
    }
    const int64_t quotient = a / b;
    return {quotient, a - quotient * b};
}

inline bool is_aligned(const void* p, int bytes) { return reinterpret_cast<uintptr_t>(p) % unsigned(bytes) == 0; }

// The type that values of T are compared and added in.
template <class T>
struct Wide {
    using Type = float;
};
template <>
struct Wide<double> {
    using Type = double;
};

}  // namespace fastconv::cuda
