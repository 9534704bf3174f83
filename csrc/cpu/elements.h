// Element types of tensors, and the types that they are computed in. float16 and bfloat16 are stored in 16 bits and
// computed in float. A kernel widens them where it reads, and rounds its result once, to nearest, ties to even. A NaN
// stays a NaN and becomes quiet.
#pragma once

#include "../common/geometry.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace fastconv::cpu {
namespace {

template <class To, class From>
inline To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof(to));
    return to;
}

// Bitwise conversions of one number or of a vector's lanes. F is float or a vector of floats, U the unsigned integers
// of that size, with a 16-bit number in the low half of each.

template <class F, class U>
inline F widen_half(U half) {
    const U magnitude = half & 0x7fffu, shifted = magnitude << 13;
    // The exponents' biases differ by 112. The exponent of inf and NaN grows by another 112.
    const U normal = shifted + (112u << 23);
    const U special = (normal + (112u << 23)) | (magnitude > 0x7c00u ? U{} + 0x400000u : U{});
    // m * 2^-24, computed as 2^-14 (1 + m / 1024) - 2^-14
    const U small = same_bits<U>(same_bits<F>(shifted + (113u << 23)) - 0x1p-14f);
    const U large = magnitude < 0x7c00u ? normal : special;
    return same_bits<F>((half & 0x8000u) << 16 | (magnitude < 0x400u ? small : large));
}

template <class F, class U>
inline U round_to_half(F value) {
    const U bits = same_bits<U>(value), magnitude = bits & 0x7fffffffu, rebiased = magnitude - (112u << 23);
    const U normal = (rebiased + 0xfffu + (rebiased >> 13 & 1u)) >> 13;
    // Below 2^-14, results are multiples of 2^-24, the spacing of floats from 0.5 on: the addition rounds.
    const U small = same_bits<U>(same_bits<F>(magnitude) + 0.5f) - 0x3f000000u;
    const U nan = (magnitude >> 13 & 0x3ffu) | 0x7e00u;
    const U finite = magnitude < 0x38800000u ? small : normal;
    const U large = magnitude > 0x7f800000u ? nan : U{} + 0x7c00u;
    return (bits >> 16 & 0x8000u) | (magnitude < 0x477ff000u ? finite : large);  // inf from 65520 on
}

template <class F, class U>
inline F widen_bfloat16(U bits) {
    return same_bits<F>(bits << 16);
}

template <class F, class U>
inline U round_to_bfloat16(F value) {
    const U bits = same_bits<U>(value), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded;
}

struct half {
    uint16_t bits;
    half() = default;
#if defined(__F16C__)
    explicit half(float value) : bits(_cvtss_sh(value, 0)) {}  // 0: to nearest even; the same bits as below
    explicit operator float() const { return _cvtsh_ss(bits); }
#else
    explicit half(float value) : bits(uint16_t(round_to_half<float, uint32_t>(value))) {}
    explicit operator float() const { return widen_half<float, uint32_t>(bits); }
#endif
};

struct bfloat16 {
    uint16_t bits;
    bfloat16() = default;
    explicit bfloat16(float value) : bits(uint16_t(round_to_bfloat16<float, uint32_t>(value))) {}
    explicit operator float() const { return widen_bfloat16<float, uint32_t>(bits); }
};

template <class E>
struct ComputedOf {
    using type = E;
};
template <>
struct ComputedOf<half> {
    using type = float;
};
template <>
struct ComputedOf<bfloat16> {
    using type = float;
};
// The type that elements of type E are computed in.
template <class E>
using Computed = typename ComputedOf<E>::type;

inline bool in_double(DType dtype) { return dtype == DType::float64; }

// by_type<f<float>, f<double>> calls f<T>, where T is the type that the problem is computed in.
template <auto for_float, auto for_double, class... Args>
auto by_type(const Conv2dProblem& problem, Args... args) {
    return (in_double(problem.dtype) ? for_double : for_float)(problem, args...);
}
inline int64_t element_bytes(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// Calls use(an element of this type), for operations that pass over memory once.
template <class Use>
inline void with_any_elements(DType dtype, const Use& use) {
    if (dtype == DType::float64) use(double());
    else if (dtype == DType::float16) use(half());
    else if (dtype == DType::bfloat16) use(bfloat16());
    else use(float());
}

// Calls use(t's data, as elements of its type), where t is computed in T. For the copies around a convolution's kernel,
// so that the kernel itself exists for float and double only.
template <class T, class Use>
inline auto with_elements(const Tensor& t, const Use& use) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (t.dtype == DType::float16) return use(static_cast<half*>(t.data));
        if (t.dtype == DType::bfloat16) return use(static_cast<bfloat16*>(t.data));
    }
    return use(static_cast<T*>(t.data));
}

template <class E>
inline void assign(E& element, Computed<E> value) {
    element = E(value);
}

template <class T>
inline T value_at(const Tensor& t, int64_t offset) {
    return with_elements<T>(t, [=](const auto* data) { return T(data[offset]); });
}

template <class T>
inline void set_value(const Tensor& t, int64_t offset, T value) {
    with_elements<T>(t, [=](auto* data) { assign(data[offset], value); });
}

inline void* address(const Tensor& t, int64_t offset) {
    return static_cast<char*>(t.data) + offset * element_bytes(t.dtype);
}

}  // namespace
}  // namespace fastconv::cpu
