// Rows of the gradient of a convolution's output, zeros included, from dy and the code of its epilogue (geometry.h):
// for kernels that do not use lists of live gradients.
#pragma once

#include "pack.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Loads `count` bytes as lanes; the other lanes are zero.
template <class T>
inline Mask<T> load_some_bytes(const uint8_t* p, int64_t count) {
    if (count >= lanes<T>) return load_bytes<T>(p);
    uint8_t bytes[lanes<T>] = {};
    for (int64_t i = 0; i < count; ++i) bytes[i] = p[i];
    return load_bytes<T>(bytes);
}

// Channels first_k to first_k + count of an image, in rows of `width` pixels from column q0 on. A pixel has `pixel`
// elements, whole vectors.
struct RowBlock {
    int64_t first_k, count, q0, width, pixel;
};

// Clears gradients whose ReLU bit is 0. row: row p of the convolution's output.
template <class T>
inline void mask_row(const Conv2d& conv, const uint8_t* code, int64_t n, int64_t p, const RowBlock& block, T* row) {
    const int64_t first = max(block.q0, 0), last = min(block.q0 + block.width, conv.Q);
    code += (n * conv.P + p) * ceil_div(conv.Q, 8) * conv.K + block.first_k;
    for (int64_t q = first; q < last; ++q)
        for (int64_t c = 0; c < block.count; c += lanes<T>) {
            const Mask<T> byte = load_some_bytes<T>(code + q / 8 * conv.K + c, block.count - c);
            T* at = row + (q - block.q0) * block.pixel + c;
            store(at, select((byte & (Mask<T>{} + (1 << q % 8))) != 0, load(at), Vec<T>{}));
        }
}

// Adds a row of pooled gradients to row i of their windows. codes: of that row, from first_k on.
template <class T>
inline void add_windows(const Conv2d& conv, const Pool2d& pool, const T* pooled, const uint8_t* codes, int64_t i,
                        const RowBlock& block, T* row) {
    const int64_t end = min(block.q0 + block.width, conv.Q);
    for (int64_t qq = 0; qq < pool.Q; ++qq, pooled += block.pixel, codes += conv.K)
        for (int64_t j = 0; j < pool.window_w; ++j) {
            const int64_t q = qq * pool.stride_w - pool.pad_w + j * pool.dilation_w;
            if (q < max(block.q0, 0) || q >= end) continue;
            const int position = int(i * pool.window_w + j);
            for (int64_t c = 0; c < block.count; c += lanes<T>) {
                T* at = row + (q - block.q0) * block.pixel + c;
                const Mask<T> code = load_some_bytes<T>(codes + c, block.count - c);
                store(at, load(at) + select(code == position, load(pooled + c), Vec<T>{}));
            }
        }
}

// Writes some rows of image n, with zeros outside of the convolution's output. pooled: room for pool.Q pixels.
template <class T>
void gradient_rows(const Conv2dProblem& problem, const Tensor& dy, const Tensor& code, int64_t n, Range rows,
                   const RowBlock& block, T* out, T* pooled) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    const Tensor channels = channels_of(dy, block.first_k, block.count);
    const auto* codes = static_cast<const uint8_t*>(code.data);
    const int64_t first_p = max(rows.first, 0), last_p = min(rows.last, conv.P);
    if (!problem.epilogue.pooled) {
        pack_rows(channels, n, rows.first, rows.last - rows.first, block.q0, block.width, block.pixel, out);
        if (problem.epilogue.activation == Activation::relu)
            for (int64_t p = first_p; p < last_p; ++p)
                mask_row(conv, codes, n, p, block, out + (p - rows.first) * block.width * block.pixel);
        return;
    }
    std::memset(out, 0, size_t((rows.last - rows.first) * block.width * block.pixel) * sizeof(T));
    const int64_t reach = (pool.window_h - 1) * pool.dilation_h;
    const int64_t first = max(0, ceil_div(max(0, first_p + pool.pad_h - reach), pool.stride_h));
    const int64_t last = min(pool.P, max(0, last_p - 1 + pool.pad_h) / pool.stride_h + 1);
    for (int64_t pp = first; pp < last; ++pp) {
        pack_rows(channels, n, pp, 1, 0, pool.Q, block.pixel, pooled);
        for (int64_t i = 0; i < pool.window_h; ++i) {
            const int64_t p = pp * pool.stride_h - pool.pad_h + i * pool.dilation_h;
            if (p < first_p || p >= last_p) continue;
            add_windows(conv, pool, pooled, codes + (n * pool.P + pp) * pool.Q * conv.K + block.first_k, i, block,
                        out + (p - rows.first) * block.width * block.pixel);
        }
    }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
