// A term is the elements of x, and of a filter, that one multiply-add takes: one element, or two neighbors of bfloat16.
// The products of a pair are added to a sum in float32, so a pair counts twice the products of a float for the same
// registers and bytes. AVX512-BF16 has an instruction for it; other sets compute the same in two multiply-adds, for
// tests.
#pragma once

#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

template <class E>
constexpr int64_t term = sizeof(E) == 2 ? 2 : 1;  // elements

// The number of terms that hold some elements.
template <class E>
inline int64_t terms_of(int64_t elements) {
    return ceil_div(elements, term<E>);
}

// A register of terms, one a lane.
template <class E>
struct TermsOf {
    using type = Vec<E>;
};
template <>
struct TermsOf<bfloat16> {
    using type = Vec<uint32_t>;
};
template <class E>
using Terms = typename TermsOf<E>::type;

template <class E>
inline Terms<E> load_terms(const E* p) {
    if constexpr (term<E> == 1) return load(p);
    else return *reinterpret_cast<const VecOf<uint32_t>::unaligned*>(p);
}

// The term at p, in every lane.
template <class E>
inline Terms<E> splat_term(const E* p) {
    if constexpr (term<E> == 1) {
        return splat(*p);
    } else {
        uint32_t pair;
        std::memcpy(&pair, p, sizeof(pair));
        return Terms<E>{} + pair;
    }
}

// A last element without a neighbor, with zero instead of it: what lies behind may be inf or NaN.
inline Terms<bfloat16> splat_single(const bfloat16* p) { return Terms<bfloat16>{} + uint32_t(p->bits); }

inline Vec<float> odd_elements(Terms<bfloat16> pairs) { return same_bits<Vec<float>>(pairs & 0xffff0000u); }
inline Vec<float> even_elements(Terms<bfloat16> pairs) { return same_bits<Vec<float>>(pairs << 16); }
inline Vec<float> sum_of_pair(Terms<bfloat16> pairs) { return even_elements(pairs) + odd_elements(pairs); }

template <class E>
inline Vec<Computed<E>> multiply_add(Terms<E> x, Terms<E> w, Vec<Computed<E>> sum) {
    if constexpr (term<E> == 1) {
        return sum + x * w;
    } else {
#if defined(__AVX512BF16__) && FASTCONV_VECTOR_BYTES == 64
        return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
#else
        return (sum + odd_elements(x) * odd_elements(w)) + even_elements(x) * even_elements(w);
#endif
    }
}

template <class E>
constexpr bool is_bfloat16 = false;
template <>
constexpr bool is_bfloat16<bfloat16> = true;

// Rounds pairs to memory.
inline void store_pairs(bfloat16* p, Vec<float> even, Vec<float> odd) {
    const auto round = [](Vec<float> v) { return round_to_bfloat16<Vec<float>, Vec<uint32_t>>(v); };
    *reinterpret_cast<VecOf<uint32_t>::unaligned*>(p) = round(even) | round(odd) << 16;
}

// Interleaves two rows of elements into terms: a[0] b[0] a[1] b[1] ... Without b, its elements are zeros.
inline void interleave(const bfloat16* a, const bfloat16* b, int64_t count, bfloat16* out) {
    int64_t i = 0;
    for (; i + lanes<float> <= count; i += lanes<float>) {
        const Vec<uint32_t> high = b ? load_words(b + i) << 16 : Vec<uint32_t>{};
        *reinterpret_cast<VecOf<uint32_t>::unaligned*>(out + 2 * i) = load_words(a + i) | high;
    }
    for (; i < count; ++i) {
        out[2 * i] = a[i];
        out[2 * i + 1].bits = b ? b[i].bits : uint16_t(0);
    }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
