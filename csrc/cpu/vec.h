// Vec<T> is a vector of FASTCONV_VECTOR_BYTES / sizeof(T) lanes, for kernels compiled once per instruction set.
// FASTCONV_ISA names the set and its namespace.
//
// Everything that such a kernel uses lives in an unnamed namespace inside the set's own. The linker would merge an
// inline function with external linkage over all sets, and its AVX-512 copy would run on machines without it. So there
// are no std:: templates either.
#pragma once

#include <cstdint>
#include <cstring>

#include "elements.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class T>
constexpr int lanes = FASTCONV_VECTOR_BYTES / int(sizeof(T));

template <class T>
struct Int;
template <>
struct Int<float> {
    using type = int32_t;
};
template <>
struct Int<double> {
    using type = int64_t;
};

template <class T>
struct VecOf {
    typedef T type __attribute__((vector_size(FASTCONV_VECTOR_BYTES)));
    typedef T unaligned __attribute__((vector_size(FASTCONV_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using Vec = typename VecOf<T>::type;
// The result of comparing two Vec<T>: all bits of a lane set, or none.
template <class T>
using Mask = typename VecOf<typename Int<T>::type>::type;

#if defined(__AVX2__)
// 8 elements as floats.
inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline __m256 load8(const bfloat16* p) {
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
inline void store8(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
inline void store8(half* p, __m256 v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, 0)); }
inline void store8(bfloat16* p, __m256 v) {
    typedef uint32_t Words __attribute__((vector_size(32)));
    const __m256i words = (__m256i)round_to_bfloat16<__m256, Words>(v);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
#endif

// 16-bit numbers, one in the low half of each lane.
inline Vec<uint32_t> load_words(const void* p) {
#if defined(__AVX512F__) && FASTCONV_VECTOR_BYTES == 64
    return (Vec<uint32_t>)_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
#else
    typedef uint16_t Words __attribute__((vector_size(2 * lanes<float>)));
    Words words;
    std::memcpy(&words, p, sizeof(words));
    return __builtin_convertvector(words, Vec<uint32_t>);
#endif
}
inline void store_words(void* p, Vec<uint32_t> v) {
#if defined(__AVX512F__) && FASTCONV_VECTOR_BYTES == 64
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)v));
#else
    typedef uint16_t Words __attribute__((vector_size(2 * lanes<float>)));
    const Words words = __builtin_convertvector(v, Words);
    std::memcpy(p, &words, sizeof(words));
#endif
}

inline Vec<float> widen(const half* p) {
#if defined(__AVX512F__) && FASTCONV_VECTOR_BYTES == 64
    return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    return (Vec<float>)load8(p);
#else
    return widen_half<Vec<float>>(load_words(p));
#endif
}
inline Vec<float> widen(const bfloat16* p) {
#if defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    return (Vec<float>)load8(p);
#else
    return widen_bfloat16<Vec<float>>(load_words(p));
#endif
}
inline void round_to(half* p, Vec<float> v) {
#if defined(__AVX512F__) && FASTCONV_VECTOR_BYTES == 64
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, 0));
#elif defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    store8(p, (__m256)v);
#else
    store_words(p, round_to_half<Vec<float>, Vec<uint32_t>>(v));
#endif
}
inline void round_to(bfloat16* p, Vec<float> v) {
#if defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    store8(p, (__m256)v);
#else
    store_words(p, round_to_bfloat16<Vec<float>, Vec<uint32_t>>(v));
#endif
}

// A vector of the type that elements of type E are computed in.
template <class E>
inline Vec<Computed<E>> load(const E* p) {
    if constexpr (sizeof(E) == 2) return widen(p);
    else return *reinterpret_cast<const typename VecOf<E>::unaligned*>(p);
}

template <class E>
inline void store(E* p, Vec<Computed<E>> v) {
    if constexpr (sizeof(E) == 2) round_to(p, v);
    else *reinterpret_cast<typename VecOf<E>::unaligned*>(p) = v;
}

// Copies fewer elements than a vector has lanes. GCC turns a plain loop into a call of memcpy.
template <class E>
inline void copy_part(const E* from, int64_t count, E* to) {
#pragma GCC unroll 8
    for (int64_t step = lanes<Computed<E>> / 2; step > 0; step /= 2)
        if (count & step) {
            std::memcpy(to, from, size_t(step) * sizeof(E));
            from += step, to += step;
        }
}

// Interleaves: a[0] b[0] a[1] b[1] ...
template <class E, class V>
inline void store_interleaved(E* p, V a, V b) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    Mask<T> low, high;
    for (int l = 0; l < W; ++l) low[l] = l / 2 + l % 2 * W, high[l] = low[l] + W / 2;
    store(p, Vec<T>(__builtin_shuffle(a, b, low)));
    store(p + W, Vec<T>(__builtin_shuffle(a, b, high)));
}

template <class T>
inline Vec<T> splat(T value) {
    return value - Vec<T>{};  // written lane by lane, since GCC makes masked moves of it
}

// The low 8 bits of every lane, as bytes. GCC extracts 4-byte lanes one by one unless told otherwise.
template <class T>
inline void store_bytes(uint8_t* p, Mask<T> v) {
#if defined(__AVX512F__) && FASTCONV_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4)
        return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4) {
        const __m256i low = _mm256_set1_epi32(0x0c080400);  // bytes 0, 4, 8, 12 of each half
        const __m256i packed = _mm256_shuffle_epi8((__m256i)v, low);
        const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1));
        return _mm_storel_epi64(reinterpret_cast<__m128i*>(p), both);
    }
#endif
    typedef uint8_t Bytes __attribute__((vector_size(lanes<T>)));
    const Bytes bytes = __builtin_convertvector(v, Bytes);
    std::memcpy(p, &bytes, sizeof(bytes));
}

template <class T>
inline Mask<T> load_bytes(const uint8_t* p) {
#if defined(__AVX512F__) && FASTCONV_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4)
        return (Mask<T>)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4)
        return (Mask<T>)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#endif
    typedef uint8_t Bytes __attribute__((vector_size(lanes<T>)));
    Bytes bytes;
    std::memcpy(&bytes, p, sizeof(bytes));
    return __builtin_convertvector(bytes, Mask<T>);
}

// Bit i is set if lane i of a mask is.
template <class T>
inline unsigned bits(Mask<T> mask) {
#if defined(__AVX512DQ__) && FASTCONV_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) return _mm512_movepi32_mask((__m512i)mask);
    else return _mm512_movepi64_mask((__m512i)mask);
#elif defined(__AVX2__) && FASTCONV_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4) return unsigned(_mm256_movemask_ps((__m256)mask));
    else return unsigned(_mm256_movemask_pd((__m256d)mask));
#elif defined(__SSE2__) && FASTCONV_VECTOR_BYTES == 16
    if constexpr (sizeof(T) == 4) return unsigned(_mm_movemask_ps((__m128)mask));
    else return unsigned(_mm_movemask_pd((__m128d)mask));
#else
    unsigned result = 0;
    for (int i = 0; i < lanes<T>; ++i) result |= unsigned(mask[i] & 1) << i;
    return result;
#endif
}

// The same names for one lane, so that a loop's tail can share its body's code.
inline float select(bool mask, float a, float b) { return mask ? a : b; }
inline double select(bool mask, double a, double b) { return mask ? a : b; }
inline int select(bool mask, int a, int b) { return mask ? a : b; }
template <class M, class V>
inline V select(M mask, V a, V b) {
    return mask ? a : b;
}

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
