// The epilogue of a convolution (geometry.h, Epilogue): it reads rows of the convolution for a block of channels from a
// buffer and writes y and code.
#pragma once

#include "kernels.h"
#include "pack.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Stores the low bytes of the first `count` lanes of a vector.
template <class T>
inline void store_some_bytes(uint8_t* p, Mask<T> v, int64_t count) {
    if (count >= lanes<T>) return store_bytes<T>(p, v);
    uint8_t bytes[lanes<T>];
    store_bytes<T>(bytes, v);
    for (int64_t i = 0; i < count; ++i) p[i] = bytes[i];
}

// ReLU on one row, in place. Its bits go to code, [Q / 8][K].
template <class T>
inline void relu_row(T* row, int64_t Q, int vectors, uint8_t* code, int64_t K, int64_t count) {
    constexpr int W = lanes<T>;
    for (int64_t v = 0; v < vectors; ++v) {
        for (int64_t q0 = 0; q0 < Q; q0 += 8) {
            Mask<T> byte = {};
            for (int64_t q = q0; q < min(q0 + 8, Q); ++q) {
                T* at = row + (q * vectors + v) * W;
                const Vec<T> value = load(at);
                byte |= ~(value <= 0) & (Mask<T>{} + (1 << (q - q0)));
                store(at, select(value < 0, Vec<T>{}, value));
            }
            if (code && v * W < count) store_some_bytes<T>(code + q0 / 8 * K + v * W, byte, count - v * W);
        }
    }
}

// Computes row `pooled` of the pool from the convolution's rows; `conv` holds those from `first_row` on, `pitch` pixels
// apart.
template <class T>
inline void pool_row(const Conv2d& shape, const Pool2d& pool, const T* conv, int64_t pitch, int64_t first_row,
                     int64_t pooled, int vectors, T* row, uint8_t* code, int64_t count) {
    constexpr int W = lanes<T>;
    const int64_t p = pooled * pool.stride_h - pool.pad_h;
    const Range rows = valid_positions(p, pool.dilation_h, pool.window_h, shape.P);
    for (int64_t qq = 0; qq < pool.Q; ++qq) {
        const int64_t q = qq * pool.stride_w - pool.pad_w;
        const Range columns = valid_positions(q, pool.dilation_w, pool.window_w, shape.Q);
        for (int64_t v = 0; v < vectors; ++v) {
            const Window<Vec<T>, T> window = {conv + (((p - first_row) * pitch + q) * vectors + v) * W,
                                              pool.dilation_h * pitch * vectors * W, pool.dilation_w * vectors * W};
            Vec<T> best = splat(-T(__builtin_inf()));
            Mask<T> winner = Mask<T>{} + dead;
            find_winner(pool.window_w, rows, columns, window, best, winner);
            const auto is_dead = best <= 0;
            winner = select(is_dead, Mask<T>{} + dead, winner);
            // A window without input gives -inf, as in torch.
            const bool empty = rows.first >= rows.last || columns.first >= columns.last;
            store(row + (qq * vectors + v) * W, empty ? best : select(is_dead, Vec<T>{}, best));
            if (code && v * W < count) store_some_bytes<T>(code + qq * shape.K + v * W, winner, count - v * W);
        }
    }
}

// The convolution rows that rows first to last of the epilogue's output need.
inline Range rows_needed(const Conv2dProblem& problem, int64_t first, int64_t last) {
    const Pool2d& pool = problem.pool;
    const int64_t end = (last - 1) * pool.stride_h - pool.pad_h + (pool.window_h - 1) * pool.dilation_h + 1;
    const int64_t first_p = max(0, first * pool.stride_h - pool.pad_h);
    return {first_p, max(first_p, min(problem.conv.P, end))};
}

// Rows first to last of a chunk's output, and the convolution rows that they need.
struct ChunkRows {
    int64_t n, first, last;
    Range needed;

    // plan: has `chunks` of an image, of `rows` each.
    template <class Plan>
    ChunkRows(const Conv2dProblem& problem, const Plan& plan, int64_t chunk)
        : n(chunk / plan.chunks),
          first(chunk % plan.chunks * plan.rows),
          last(min(problem.pool.P, first + plan.rows)),
          needed(rows_needed(problem, first, last)) {}
};

// Writes rows first to last of image n for `count` channels from first_k on. conv: the rows of the convolution from
// first_p on as [row][pitch][vectors * lanes], may be overwritten. row: room for one pooled row.
template <class T>
inline void run_epilogue(const Conv2dProblem& problem, const FpropArgs& args, int64_t n, int64_t first, int64_t last,
                         T* conv, int64_t pitch, int64_t first_p, int vectors, int64_t first_k, int64_t count, T* row) {
    const Conv2d& shape = problem.conv;
    const Pool2d& pool = problem.pool;
    const int64_t width = vectors * lanes<T>;
    // Consecutive rows of y are written as one.
    const bool pooled = problem.epilogue.pooled;
    const int64_t together =
        !pooled && pitch == pool.Q && args.y.stride[2] == pool.Q * args.y.stride[3] ? last - first : 1;
    for (int64_t p = first; p < last; ++p) {
        T* result = conv + (p - first_p) * pitch * width;
        uint8_t* code = static_cast<uint8_t*>(args.code.data);
        if (pooled) {
            result = row;
            if (code) code += (n * pool.P + p) * pool.Q * shape.K + first_k;
            pool_row(shape, pool, conv, pitch, first_p, p, vectors, row, code, count);
        } else if (problem.epilogue.activation == Activation::relu) {
            if (code) code += (n * shape.P + p) * ceil_div(shape.Q, 8) * shape.K + first_k;
            relu_row(result, shape.Q, vectors, code, shape.K, count);
        }
        if ((p + 1 - first) % together) continue;
        const int64_t from = p + 1 - together;
        const int64_t place = n * args.y.stride[0] + first_k * args.y.stride[1] + from * args.y.stride[2];
        result -= (together - 1) * pitch * width;
        with_elements<T>(args.y, [&](auto* y) {
            copy2d(together * pool.Q, count, result, width, 1, y + place, args.y.stride[3], args.y.stride[1]);
        });
    }
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
