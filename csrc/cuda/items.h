// Grid-stride loops: a thread processes one item after another, the whole grid's threads apart. A block has
// `item_threads` threads, and the grid fills any GPU several times over.
#pragma once

#include "dtypes.h"

namespace fastconv::cuda {

constexpr int item_threads = 256;
constexpr int64_t most_item_blocks = 1 << 14;

inline simt::Dim item_blocks(int64_t items) {
    const int64_t blocks = (items + item_threads - 1) / item_threads;
    return {int(blocks < most_item_blocks ? blocks : most_item_blocks), 1, 1};
}

FASTCONV_DEVICE int64_t first_item() { return int64_t(simt::block().x) * item_threads + simt::thread(); }
FASTCONV_DEVICE int64_t item_step() { return int64_t(simt::grid().x) * item_threads; }

// Quotient and remainder of non-negative numbers. Both almost always fit 32 bits, where a division costs a fraction of
// a 64-bit one.
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

}  // namespace fastconv::cuda
