// Max-pooling backward for 2x2 and 3x3 windows of stride 2. An item computes two rows of dx in quads: two columns of
// both rows. At most four windows cover a quad, those of (p - 1, p) x (q - 1, q). So one load of a window's gradient
// and code serves up to four sums, which stay in registers and are stored once.
#pragma once

#include "pack.h"
#include "parallel.h"
#include "pool_code.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

inline bool takes_quads(const Pool2d& pool) {
    const auto both = [](int64_t a, int64_t b, int64_t value) { return a == value && b == value; };
    return both(pool.stride_h, pool.stride_w, 2) && both(pool.dilation_h, pool.dilation_w, 1) &&
           (both(pool.window_h, pool.window_w, 2) || both(pool.window_h, pool.window_w, 3));
}

// Quads in a row or column of `size` elements of dx.
inline int64_t quads_of(int64_t size, int64_t pad) { return (size + pad + 1) / 2; }

// sums[y][x] of a quad, from its windows in their order. gradient(a, b) and code(a, b) are those of window (p - 1 + a,
// q - 1 + b), if there[a][b].
template <int WINDOW, class M, class V, class Gradient, class Code>
inline void add_windows(const bool (&there)[2][2], const Gradient& gradient, const Code& code, V (&sums)[2][2]) {
#pragma GCC unroll 2
    for (int a = WINDOW == 2; a < 2; ++a)
#pragma GCC unroll 2
        for (int b = WINDOW == 2; b < 2; ++b) {
            if (!there[a][b]) continue;
            const V g = gradient(a, b);
            const M winner = code(a, b);
#pragma GCC unroll 2
            for (int y = 0; y < 2; ++y)
#pragma GCC unroll 2
                for (int x = 0; x < 2; ++x) {
                    const int i = y + 2 - 2 * a, j = x + 2 - 2 * b;
                    if (i < WINDOW && j < WINDOW) sums[y][x] += select(winner == i * WINDOW + j, g, V{});
                }
        }
}

// Vectors over channels.
template <int WINDOW, class E>
void bprop_quads_channels_last(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool,
                               int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const int64_t C = dx.size[1], H = dx.size[2], width = dx.size[3];
    const int64_t rows = quads_of(H, pool.pad_h), columns = quads_of(width, pool.pad_w);
    parallel_for_even(threads, dx.size[0] * rows, [&, C, H, width, rows, columns](int64_t item) {
        const int64_t n = item / rows, p = item % rows;
        for (int64_t q = 0; q < columns; ++q) {
            const E* g[2][2];
            const uint8_t* codes[2][2];
            E* out[2][2];
            bool there[2][2], wanted[2][2], inside = true;
            for (int a = 0; a < 2; ++a)
                for (int b = 0; b < 2; ++b) {
                    const int64_t row = p - 1 + a, column = q - 1 + b;
                    const int64_t h = 2 * p - pool.pad_h + a, w = 2 * q - pool.pad_w + b;
                    there[a][b] = row >= 0 && row < pool.P && column >= 0 && column < pool.Q;
                    wanted[a][b] = h >= 0 && h < H && w >= 0 && w < width;
                    inside = inside && wanted[a][b] && (there[a][b] || (WINDOW == 2 && !(a && b)));
                    g[a][b] =
                        static_cast<const E*>(dy.data) + n * dy.stride[0] + row * dy.stride[2] + column * dy.stride[3];
                    codes[a][b] = static_cast<const uint8_t*>(code.data) + n * code.stride[0] + row * code.stride[2] +
                                  column * code.stride[3];
                    out[a][b] = static_cast<E*>(dx.data) + n * dx.stride[0] + h * dx.stride[2] + w * dx.stride[3];
                }
            int64_t c = 0;
            const auto vectors = [&](const auto& there, const auto& wanted) {
                for (; c + W <= C; c += W) {
                    Vec<T> sums[2][2] = {};
                    add_windows<WINDOW, Mask<T>>(
                        there, [&](int a, int b) { return load(g[a][b] + c); },
                        [&](int a, int b) { return load_codes<T>(codes[a][b] + c); }, sums);
                    for (int y = 0; y < 2; ++y)
                        for (int x = 0; x < 2; ++x)
                            if (wanted[y][x]) store(out[y][x] + c, sums[y][x]);
                }
            };
            constexpr bool all[2][2] = {{true, true}, {true, true}};
            if (inside) vectors(all, all);  // nearly always: no branches in the loop
            else vectors(there, wanted);
            for (; c < C; ++c) {
                T sums[2][2] = {};
                add_windows<WINDOW, int>(
                    there, [&](int a, int b) { return T(g[a][b][c]); },
                    [&](int a, int b) { return int(codes[a][b][c]); }, sums);
                for (int y = 0; y < 2; ++y)
                    for (int x = 0; x < 2; ++x)
                        if (wanted[y][x]) out[y][x][c] = E(sums[y][x]);
            }
        }
    });
}

// W windows of a row, from column q on. Windows beyond the row have no winner.
template <class E>
struct WindowVectors {
    using T = Computed<E>;
    static constexpr int W = lanes<T>;
    Vec<T> g = {};
    Mask<T> winner = Mask<T>{} + no_winner<uint8_t>;

    // g_end and code_end: the ends of the tensors, behind which nothing may be read.
    void read(const E* g_row, const E* g_end, const uint8_t* code_row, const uint8_t* code_end, int64_t q, int64_t Q) {
        if (q >= Q) return void((g = Vec<T>{}, winner = Mask<T>{} + no_winner<uint8_t>));
        g_row += q, code_row += q;
        if (g_row + W <= g_end && code_row + W <= code_end) {
            g = load(g_row), winner = load_codes<T>(code_row);
            if (q + W <= Q) return;
            Mask<T> lane;
            for (int l = 0; l < W; ++l) lane[l] = l;
            winner = select(lane < int(Q - q), winner, Mask<T>{} + no_winner<uint8_t>);
            return;
        }
        E g_room[W] = {};
        uint8_t code_room[W];
        std::memset(code_room, no_winner<uint8_t>, W);
        copy_part(g_row, Q - q, g_room);
        for (int64_t i = 0; i < Q - q; ++i) code_room[i] = code_row[i];
        g = load(g_room), winner = load_codes<T>(code_room);
    }
};

// The lanes of `now` shifted by one, with the last lane of `before` in front.
template <class T, class V>
inline V one_later(V before, V now) {
    constexpr int W = lanes<T>;
    Mask<T> pick;
    for (int l = 0; l < W; ++l) pick[l] = W - 1 + l;
    return __builtin_shuffle(before, now, pick);
}

// Vectors over columns of windows. Those of q - 1 are made of those of q and of the vector before.
template <int WINDOW, class E>
void bprop_quads_planes(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool_, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const Pool2d pool = pool_;
    const int64_t C = dx.size[1], H = dx.size[2], width = dx.size[3];
    const int64_t rows = quads_of(H, pool.pad_h), columns = quads_of(width, pool.pad_w);
    const E* const g_end = end_of<E>(dy);
    const uint8_t* const code_end = end_of<uint8_t>(code);
    parallel_for_even(threads, dx.size[0] * C * rows, [=, &dy, &code, &dx](int64_t item) {
        const int64_t p = item % rows, c = item / rows % C, n = item / rows / C;
        const E* g_row[2];
        const uint8_t* code_row[2];
        int64_t Q[2];
        E* out[2];
        for (int a = 0; a < 2; ++a) {
            const int64_t row = p - 1 + a, h = 2 * p - pool.pad_h + a;
            Q[a] = row >= 0 && row < pool.P ? pool.Q : 0;
            g_row[a] = static_cast<const E*>(dy.data) + n * dy.stride[0] + c * dy.stride[1] + row * dy.stride[2];
            code_row[a] =
                static_cast<const uint8_t*>(code.data) + n * code.stride[0] + c * code.stride[1] + row * code.stride[2];
            out[a] = h >= 0 && h < H ? static_cast<E*>(dx.data) + n * dx.stride[0] + c * dx.stride[1] + h * dx.stride[2]
                                     : nullptr;
        }
        WindowVectors<E> now[2], before[2];
        for (int64_t q = 0; q < columns; q += W) {
#pragma GCC unroll 2
            for (int a = WINDOW == 2; a < 2; ++a) {
                before[a].g = now[a].g, before[a].winner = now[a].winner;
                now[a].read(g_row[a], g_end, code_row[a], code_end, q, Q[a]);
            }
            constexpr bool there[2][2] = {{true, true}, {true, true}};
            Vec<T> sums[2][2] = {};
            add_windows<WINDOW, Mask<T>>(
                there, [&](int a, int b) { return b ? now[a].g : one_later<T>(before[a].g, now[a].g); },
                [&](int a, int b) { return b ? now[a].winner : one_later<T>(before[a].winner, now[a].winner); }, sums);
            const int64_t w = 2 * q - pool.pad_w;
#pragma GCC unroll 2
            for (int y = 0; y < 2; ++y) {
                if (!out[y]) continue;
                if (w >= 0 && w + 2 * W <= width) {
                    store_interleaved(out[y] + w, sums[y][0], sums[y][1]);
                    continue;
                }
                E room[2 * W];
                store_interleaved(room, sums[y][0], sums[y][1]);
                const int64_t first = max(0, -w), count = min(2 * W, width - w) - first;
                if (count >= W) store(out[y] + w + first, load(room + first));
                const int64_t done = first + (count >= W ? W : 0);
                copy_part(room + done, first + count - done, out[y] + w + done);
            }
        }
    });
}

template <class E>
void bprop_quads(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, bool channels_last,
                 int threads) {
    const bool two = pool.window_h == 2;
    (channels_last ? (two ? bprop_quads_channels_last<2, E> : bprop_quads_channels_last<3, E>)
                   : (two ? bprop_quads_planes<2, E> : bprop_quads_planes<3, E>))(dy, code, dx, pool, threads);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
