// Copies between memory formats. The kernels work on NHWC, with the padding in place, in the types that elements are
// computed in (elements.h), so copies convert.
#pragma once

#include "../common/geometry.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

#if defined(__AVX2__)
// dst[j][i] = src[i][j], 8 x 8.
template <class From, class To>
inline void transpose8(const From* src, int64_t src_row, To* dst, int64_t dst_row) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = load8(src + i * src_row);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        store8(dst + i * dst_row, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        store8(dst + (i + 4) * dst_row, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
#endif
#if defined(__SSE2__)
inline void transpose8(const bfloat16* src, int64_t src_row, bfloat16* dst, int64_t dst_row) {
    __m128i a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i * src_row));
    for (int i = 0; i < 4; ++i) {
        b[i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[i + 4] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 2) {  // pairs of columns i, i + 1: rows 0 to 3, rows 4 to 7
        a[i] = _mm_unpacklo_epi32(b[i], b[i + 1]);
        a[i + 1] = _mm_unpackhi_epi32(b[i], b[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            const int column = i + 2 * j;
            _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + column * dst_row),
                             _mm_unpacklo_epi64(a[i + j], a[i + j + 2]));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + (column + 1) * dst_row),
                             _mm_unpackhi_epi64(a[i + j], a[i + j + 2]));
        }
}
inline void transpose8(const uint8_t* src, int64_t src_row, uint8_t* dst, int64_t dst_row) {
    __m128i a[8], b[4];
    for (int i = 0; i < 8; ++i) a[i] = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(src + i * src_row));
    for (int i = 0; i < 4; ++i) b[i] = _mm_unpacklo_epi8(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < 2; ++i) {
        a[2 * i] = _mm_unpacklo_epi16(b[2 * i], b[2 * i + 1]);
        a[2 * i + 1] = _mm_unpackhi_epi16(b[2 * i], b[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        b[2 * i] = _mm_unpacklo_epi32(a[i], a[i + 2]);
        b[2 * i + 1] = _mm_unpackhi_epi32(a[i], a[i + 2]);
    }
    for (int i = 0; i < 4; ++i) {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(dst + 2 * i * dst_row), b[i]);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(dst + (2 * i + 1) * dst_row), _mm_unpackhi_epi64(b[i], b[i]));
    }
}
#endif
// Whether a transpose exists for elements of this type: bytes stay bytes, all others are floats or become floats.
template <class From>
constexpr bool has_transpose8 = false;
#if defined(__AVX2__)
template <>
constexpr bool has_transpose8<float> = true;
template <>
constexpr bool has_transpose8<half> = true;
template <>
constexpr bool has_transpose8<bfloat16> = true;
#endif
#if defined(__SSE2__)
template <>
constexpr bool has_transpose8<uint8_t> = true;
#endif

// A row may be as short as a vector, where a call of memcpy would cost more than the copy.
template <class T>
inline void copy_row(int64_t columns, const T* src, T* dst) {
    constexpr int64_t step = 32 / int64_t(sizeof(T));
    if (columns > 4 * step) return void(std::memcpy(dst, src, size_t(columns) * sizeof(T)));
    int64_t j = 0;
    for (; j + step <= columns; j += step) std::memcpy(dst + j, src + j, 32);
    for (; j < columns; ++j) dst[j] = src[j];
}

// The same from or to 16 bits.
template <class From, class To>
inline void copy_row(int64_t columns, const From* src, To* dst) {
    int64_t j = 0;
    for (; j + lanes<float> <= columns; j += lanes<float>) store(dst + j, load(src + j));
    for (; j < columns; ++j) dst[j] = To(float(src[j]));
}

// The same for zeros.
template <class T>
inline void clear_row(int64_t columns, T* dst) {
    constexpr int64_t step = 32 / int64_t(sizeof(T));
    if (columns > 4 * step) return void(std::memset(dst, 0, size_t(columns) * sizeof(T)));
    int64_t j = 0;
    for (; j + step <= columns; j += step) std::memset(dst + j, 0, 32);
    for (; j < columns; ++j) dst[j] = T(0);
}

// dst[i * dst_row + j * dst_column] = src[i * src_row + j * src_column].
template <class From, class To>
inline void copy2d(int64_t rows, int64_t columns, const From* src, int64_t src_row, int64_t src_column, To* dst,
                   int64_t dst_row, int64_t dst_column) {
    if (src_column == 1 && dst_column == 1) {
        if (src_row == columns && dst_row == columns) columns *= rows, rows = 1;  // one run
        for (int64_t i = 0; i < rows; ++i) copy_row(columns, src + i * src_row, dst + i * dst_row);
        return;
    }
    if (src_row == 1 && (dst_row == 1 || dst_column == 1)) {  // the same, transposed
        copy2d(columns, rows, src, src_column, src_row, dst, dst_column, dst_row);
        return;
    }
    if constexpr (has_transpose8<From>) {
        if (src_column == 1 && dst_row == 1 && rows >= 8 && columns >= 8) {
            // In 8 x 8 blocks; the last ones overlap those before them to stay inside. Four blocks at a time fill cache
            // lines. They follow the side whose rows are further apart, since its lines may evict each other.
            const auto block = [&](int64_t i, int64_t j) {
                if (i >= rows || j >= columns) return;
                const int64_t row = min(i, rows - 8), column = min(j, columns - 8);
                transpose8(src + row * src_row + column, src_row, dst + row + column * dst_column, dst_column);
            };
            const int64_t along_src = src_row > dst_column ? 8 : 0, along_dst = 8 - along_src;
            for (int64_t i = 0; i < rows; i += 16)
                for (int64_t j = 0; j < columns; j += 16) {
                    block(i, j), block(i + along_dst, j + along_src);
                    block(i + along_src, j + along_dst), block(i + 8, j + 8);
                }
            return;
        }
    }
    for (int64_t j = 0; j < columns; ++j)
        for (int64_t i = 0; i < rows; ++i)
            dst[i * dst_row + j * dst_column] = To(Computed<From>(src[i * src_row + j * src_column]));
}

// The number of phases of the stride that a kernel's positions fall on: position i is on phase i % phases. Images that
// are read in strides are packed as a plane for each.
inline int64_t phases_of(int64_t positions, int64_t stride, int64_t dilation) {
    int64_t phases = 1;
    while (phases < positions && phases * dilation % stride) ++phases;
    return phases;
}

// Kernel position (r, s) in such planes, in pixels from the first plane on.
template <class Plan>
inline int64_t place_in_planes(const Conv2d& conv, const Plan& plan, int64_t r, int64_t s) {
    const int64_t plane = r % plan.phases_h * plan.phases_w + s % plan.phases_w;
    const int64_t row = plane * plan.plane_rows + r * conv.dilation_h / conv.stride_h;
    return row * plan.width + s * conv.dilation_w / conv.stride_w;
}

// Packs rows h0 to h0 + rows and columns w0 to w0 + width of image n as [rows][width][pixel], with zeros outside x.
// `pixel` may be more than x has channels.
template <class T>
inline void pack_rows(const Tensor& x, int64_t n, int64_t h0, int64_t rows, int64_t w0, int64_t width, int64_t pixel,
                      T* out) {
    const int64_t C = x.size[1], H = x.size[2];
    const int64_t first = min(max(-w0, 0), width), last = max(first, min(x.size[3] - w0, width));
    with_elements<T>(x, [&](const auto* data) {
        // Consecutive whole rows are one run.
        const bool one =
            w0 == 0 && width == x.size[3] && h0 >= 0 && h0 + rows <= H && x.stride[2] == width * x.stride[3];
        const int64_t columns = one ? rows * width : width;
        for (int64_t h = h0; h < h0 + rows; h += one ? rows : 1, out += columns * pixel) {
            const bool inside = h >= 0 && h < H;
            const int64_t from = one ? 0 : inside ? first : width, to = one ? columns : inside ? last : width;
            clear_row(from * pixel, out);
            if (from < to)
                copy2d(to - from, C, data + n * x.stride[0] + h * x.stride[2] + (w0 + from) * x.stride[3], x.stride[3],
                       x.stride[1], out + from * pixel, pixel, 1);
            if (C < pixel)
                for (int64_t i = from; i < to; ++i) clear_row(pixel - C, out + i * pixel + C);
            clear_row((columns - to) * pixel, out + to * pixel);
        }
    });
}

// The address behind the last element.
template <class E>
inline const E* end_of(const Tensor& x) {
    const E* end = static_cast<const E*>(x.data) + 1;
    for (int i = 0; i < 4; ++i) end += (x.size[i] - 1) * x.stride[i];
    return end;
}

// Channels first to first + count of x, or of a filter.
inline Tensor channels_of(const Tensor& x, int64_t first, int64_t count) {
    Tensor part = x;
    part.data = address(x, first * x.stride[1]);
    part.size[1] = count;
    return part;
}

// The positions of a filter [c][r][s] of any strides, for rows of channels in which (r, s) starts at r * r_step + s *
// s_step. Evenly spaced positions are one row, which leaves longer copies.
struct FilterPositions {
    int64_t rows, columns;
};
inline FilterPositions positions_of(const Tensor& w, int64_t r_step, int64_t s_step) {
    const bool even = r_step == w.size[3] * s_step && w.stride[2] == w.size[3] * w.stride[3];
    return even ? FilterPositions{1, w.size[2] * w.size[3]} : FilterPositions{w.size[2], w.size[3]};
}
template <class T>
inline void pack_filter(const Tensor& w, int64_t k, T* out, int64_t r_step, int64_t s_step) {
    const FilterPositions at = positions_of(w, r_step, s_step);
    with_elements<T>(w, [&](const auto* data) {
        const auto* filter = data + k * w.stride[0];
        for (int64_t r = 0; r < at.rows; ++r)
            copy2d(at.columns, w.size[1], filter + r * w.stride[2], w.stride[3], w.stride[1], out + r * r_step, s_step,
                   1);
    });
}

// Packs `count` filters from first_k on to [r][s][c][width], a filter a column. Channels are no neighbors in memory,
// or there is one position.
template <class T>
inline void pack_filter_rows(const Tensor& w, int64_t first_k, int64_t count, int64_t width, T* out) {
    const int64_t channels = w.size[1], S = w.size[3], positions = w.size[2] * S;
    const FilterPositions at = positions_of(w, S, 1);
    // Reversed filters (dgrad) are read from their end.
    const bool turned = w.stride[3] < 0 && at.rows == 1;
    const int64_t step = channels * width, from = turned ? positions - 1 : 0, sign = turned ? -1 : 1;
    with_elements<T>(w, [&](const auto* data) {
        data += first_k * w.stride[0];
        if (positions == 1) return copy2d(count, channels, data, w.stride[0], w.stride[1], out, 1, width);
        data += from * w.stride[3];
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t r = 0; r < at.rows; ++r)
                copy2d(count, at.columns, data + c * w.stride[1] + r * w.stride[2], w.stride[0], sign * w.stride[3],
                       out + c * width + (from + r * at.columns) * step, 1, sign * step);
    });
}

template <class T>
inline void unpack_filter(const T* packed, int64_t r_step, int64_t s_step, const Tensor& w, int64_t k) {
    const FilterPositions at = positions_of(w, r_step, s_step);
    with_elements<T>(w, [&](auto* data) {
        auto* filter = data + k * w.stride[0];
        for (int64_t r = 0; r < at.rows; ++r)
            copy2d(at.columns, w.size[1], packed + r * r_step, s_step, 1, filter + r * w.stride[2], w.stride[3],
                   w.stride[1]);
    });
}

// Carves arrays, each aligned to 64 bytes, from a workspace. From a null start it only adds up sizes.
class Carver {
public:
    explicit Carver(void* start) : start_(static_cast<char*>(start)) {}
    template <class U>
    U* take(int64_t count) {
        char* at = start_ ? start_ + used_ : nullptr;
        used_ += round_up(count * int64_t(sizeof(U)), 64);
        return reinterpret_cast<U*>(at);
    }
    size_t used() const { return size_t(used_); }

private:
    char* start_;
    int64_t used_ = 0;
};

// Thread 0's array; another thread's is per_thread bytes further for each.
template <class U>
inline U* of_thread(U* of_thread_0, int thread, size_t per_thread) {
    return reinterpret_cast<U*>(reinterpret_cast<char*>(of_thread_0) + size_t(thread) * per_thread);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
