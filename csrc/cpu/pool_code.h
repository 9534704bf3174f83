// A max-pool's codes: the winner's row-major position in its window, a byte if the window has at most 254 positions,
// else an int32.
#pragma once

#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class Code>
constexpr int no_winner = sizeof(Code) == 1 ? 255 : -1;

template <class T>
void store_codes(uint8_t* p, Mask<T> codes) {
    store_bytes<T>(p, codes);
}
template <class T>
void store_codes(int32_t* p, Mask<T> codes) {
    for (int i = 0; i < lanes<T>; ++i) p[i] = int32_t(codes[i]);
}
template <class T>
Mask<T> load_codes(const uint8_t* p) {
    return load_bytes<T>(p);
}
template <class T>
Mask<T> load_codes(const int32_t* p) {
    Mask<T> codes;
    for (int i = 0; i < lanes<T>; ++i) codes[i] = p[i];
    return codes;
}

// Whether codes of this pool take a byte, in forward and backward.
inline bool byte_codes(const Pool2d& pool) { return pool.window_h * pool.window_w <= max_positions; }

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
