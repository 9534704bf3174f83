// Max-pooling backward for 2x2 and 3x3 windows of stride 2. An item makes two rows of dx, by quads: two columns each of
// the two rows. A quad's elements lie under at most four windows, those of (p - 1, p) x (q - 1, q), so that one load of
// a window's gradient and code serves up to four sums, which stay in registers and are stored once.
#pragma once

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

// sums[y][x] of a quad, from its windows in their order: gradient(a, b) and code(a, b) of window (p - 1 + a, q - 1 +
// b), where there[a][b].
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

// Vectors are over channels.
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
            if (inside) vectors(all, all);  // nearly always: no questions in the loop
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

// Vectors are over columns of windows, those where rows begin and end from copies filled up with windows without a
// winner.
template <int WINDOW, class E>
void bprop_quads_planes(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const int64_t C = dx.size[1], H = dx.size[2], width = dx.size[3];
    const int64_t rows = quads_of(H, pool.pad_h), columns = quads_of(width, pool.pad_w);
    parallel_for_even(threads, dx.size[0] * C * rows, [&, C, H, width, rows, columns](int64_t item) {
        const int64_t p = item % rows, c = item / rows % C, n = item / rows / C;
        const E* const plane_g = static_cast<const E*>(dy.data) + n * dy.stride[0] + c * dy.stride[1];
        const uint8_t* const plane_codes =
            static_cast<const uint8_t*>(code.data) + n * code.stride[0] + c * code.stride[1];
        E* const plane = static_cast<E*>(dx.data) + n * dx.stride[0] + c * dx.stride[1];
        for (int64_t q = 0; q < columns; q += W) {
            E g_room[2][W + 1];
            uint8_t code_room[2][W + 1];
            const E* g[2];  // of windows q - 1 .. q + W - 1
            const uint8_t* codes[2];
            for (int a = WINDOW == 2; a < 2; ++a) {
                const int64_t row = p - 1 + a;
                const bool there = row >= 0 && row < pool.P;
                g[a] = plane_g + row * dy.stride[2] + q - 1;
                codes[a] = plane_codes + row * code.stride[2] + q - 1;
                if (there && q >= 1 && q + W <= pool.Q) continue;
                const int64_t first = q == 0, last = there ? min(W + 1, pool.Q - q + 1) : 0;
                std::memset(g_room[a], 0, sizeof(g_room[a]));
                std::memset(code_room[a], no_winner<uint8_t>, sizeof(code_room[a]));
                for (int64_t i = first; i < last; ++i) g_room[a][i] = g[a][i], code_room[a][i] = codes[a][i];
                g[a] = g_room[a], codes[a] = code_room[a];
            }
            Vec<T> sums[2][2] = {};
            constexpr bool there[2][2] = {{true, true}, {true, true}};
            add_windows<WINDOW, Mask<T>>(
                there, [&](int a, int b) { return load(g[a] + b); },
                [&](int a, int b) { return load_codes<T>(codes[a] + b); }, sums);
            const int64_t w = 2 * q - pool.pad_w;
            for (int y = 0; y < 2; ++y) {
                const int64_t h = 2 * p - pool.pad_h + y;
                if (h < 0 || h >= H) continue;
                E* const out = plane + h * dx.stride[2] + w;
                if (w >= 0 && w + 2 * W <= width) {
                    store_interleaved(out, sums[y][0], sums[y][1]);
                    continue;
                }
                E room[2 * W];
                store_interleaved(room, sums[y][0], sums[y][1]);
                for (int64_t i = max(0, -w); i < min(2 * W, width - w); ++i) out[i] = room[i];
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
