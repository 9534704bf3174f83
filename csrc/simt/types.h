// Types of kernels: 16-bit floats and packs of elements. They are the same on a GPU, on its host and in the emulator,
// so no CUDA header is needed.
#pragma once

#include <cstdint>
#include <cstring>

#include "macros.h"

namespace fastconv::simt {

struct Dim {
    int x = 1, y = 1, z = 1;
};

// N elements that are read and written at once. An array of them is aligned to their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T data[N];
    FASTCONV_HOST_DEVICE T& operator[](int i) { return data[i]; }
    FASTCONV_HOST_DEVICE const T& operator[](int i) const { return data[i]; }
};

FASTCONV_HOST_DEVICE uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

FASTCONV_HOST_DEVICE float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

// Conversions from float round to nearest, ties to even. NaN becomes 0x7fff, as in PTX's cvt.rn.

FASTCONV_HOST_DEVICE uint16_t bfloat16_bits(float value) {
#ifdef __CUDA_ARCH__
    uint16_t result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
#else
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
#endif
}

FASTCONV_HOST_DEVICE uint16_t half_bits(float value) {
#ifdef __CUDA_ARCH__
    uint16_t result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
#else
    const uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // 65520 and above
    if (magnitude < 0x38800000u) {                                  // below 2^-14: multiples of 2^-24
        // 0.5 has a spacing of 2^-24, so the addition rounds and leaves the multiple in the low bits.
        return uint16_t(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u));
    }
    const uint32_t shifted = magnitude - (112u << 23);  // the exponents' biases differ by 127 - 15
    return uint16_t(sign | (shifted + 0xfffu + (shifted >> 13 & 1)) >> 13);
#endif
}

FASTCONV_HOST_DEVICE float half_value(uint16_t half) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    const uint32_t sign = uint32_t(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude < 0x400u) return bits_float(sign | float_bits(float(magnitude) * 0x1p-24f));
    return bits_float(sign | ((magnitude << 13) + (112u << 23)));
#endif
}

struct bfloat16 {
    uint16_t bits;
    bfloat16() = default;
    FASTCONV_HOST_DEVICE explicit bfloat16(float value) : bits(bfloat16_bits(value)) {}
    FASTCONV_HOST_DEVICE explicit operator float() const { return bits_float(uint32_t(bits) << 16); }
};

struct half {
    uint16_t bits;
    half() = default;
    FASTCONV_HOST_DEVICE explicit half(float value) : bits(half_bits(value)) {}
    FASTCONV_HOST_DEVICE explicit operator float() const { return half_value(bits); }
};

}  // namespace fastconv::simt
