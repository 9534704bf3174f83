// Max-pooling forward and backward. Kept for backward: the winner's row-major position in its window,
// a byte where the window has at most 254 positions, else an int32.
//
// The first of equal values wins, among NaNs the last, as in torch. A window with no input (possible with
// ceil_mode and dilation) gives -inf and has no winner.
#include "isa_kernels.h"
#include "pack.h"
#include "parallel.h"
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

template <class E, class Code>
void fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const int64_t N = x.size[0], C = x.size[1];
    // An item is a row of windows over a block of channels: vectors over channels where those lie side by side.
    const bool channels_last = x.stride[1] == 1 && y.stride[1] == 1 && (!code.data || code.stride[1] == 1);
    const int64_t channels = channels_last ? C : 1;
    const int64_t blocks = channels ? C / channels : 0;
    parallel_for(threads, N * blocks * pool.P, [&, channels, channels_last](int64_t item, int) {
        const int64_t p = item % pool.P, first_c = item / pool.P % blocks * channels, n = item / pool.P / blocks;
        const int64_t h = p * pool.stride_h - pool.pad_h;
        const Range rows = valid_positions(h, pool.dilation_h, pool.window_h, x.size[2]);
        for (int64_t q = 0; q < pool.Q; ++q) {
            const int64_t w = q * pool.stride_w - pool.pad_w;
            const Range columns = valid_positions(w, pool.dilation_w, pool.window_w, x.size[3]);
            const E* source = static_cast<const E*>(x.data) + n * x.stride[0] + first_c * x.stride[1] +
                              h * x.stride[2] + w * x.stride[3];
            const int64_t row_step = pool.dilation_h * x.stride[2], column_step = pool.dilation_w * x.stride[3];
            E* target =
                static_cast<E*>(y.data) + n * y.stride[0] + first_c * y.stride[1] + p * y.stride[2] + q * y.stride[3];
            Code* codes = code.data ? static_cast<Code*>(code.data) + n * code.stride[0] + first_c * code.stride[1] +
                                          p * code.stride[2] + q * code.stride[3]
                                    : nullptr;
            int64_t c = 0;
            if (channels_last) {
                for (; c + W <= channels; c += W) {
                    Vec<T> best = splat(-T(__builtin_inf()));
                    Mask<T> winner = Mask<T>{} + no_winner<Code>;
                    find_winner(pool.window_w, rows, columns, Window<Vec<T>, E>{source + c, row_step, column_step},
                                best, winner);
                    store(target + c, best);
                    if (codes) store_codes<T>(codes + c, winner);
                }
            }
            for (; c < channels; ++c) {
                T best = -T(__builtin_inf());
                int winner = no_winner<Code>;
                find_winner(pool.window_w, rows, columns, Window<T, E>{source + c, row_step, column_step}, best,
                            winner);
                target[c] = E(best);
                if (codes) codes[c] = Code(winner);
            }
        }
    });
}

// The windows first <= p < last that reach over a place of dx, one of its rows or columns; step() goes on to the next
// place. Backward, each element of dx adds up what such windows give it, in their order, and is rounded once: no two
// threads add to one place, and the bits are the same in all memory formats.
struct Covers {
    int64_t first, last, place;  // with the padding in front
    int64_t stride, dilation, window, count;

    Covers(int64_t place_, int64_t stride_, int64_t pad, int64_t dilation_, int64_t window_, int64_t count_)
        : place(place_ + pad), stride(stride_), dilation(dilation_), window(window_), count(count_) {
        first = max(0, ceil_div(place - (window - 1) * dilation, stride));
        last = min(count, place / stride + 1);
    }
    void step() {
        ++place;
        if (first < count && first * stride + (window - 1) * dilation < place) ++first;
        if (last < count && last * stride <= place) ++last;
    }
    // The position of window p that lies at the place, -1: between two positions.
    int64_t position(int64_t p) const {
        const int64_t distance = place - p * stride;
        if (dilation == 1) return distance;
        return distance % dilation ? -1 : distance / dilation;
    }
};

// Channels side by side: an item owns one row of dx, vectors are over channels.
template <class E, class Code>
void bprop_channels_last(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    constexpr int64_t most = 16 * W;  // channels at a time
    const int64_t N = dx.size[0], C = dx.size[1], H = dx.size[2];
    parallel_for(threads, N * H, [&](int64_t item, int) {
        const int64_t n = item / H, h = item % H;
        const Covers rows(h, pool.stride_h, pool.pad_h, pool.dilation_h, pool.window_h, pool.P);
        Covers columns(0, pool.stride_w, pool.pad_w, pool.dilation_w, pool.window_w, pool.Q);
        E* target = static_cast<E*>(dx.data) + n * dx.stride[0] + h * dx.stride[2];
        for (int64_t w = 0; w < dx.size[3]; ++w, target += dx.stride[3], columns.step()) {
            for (int64_t first_c = 0; first_c < C; first_c += most) {
                const int64_t channels = min(most, C - first_c);
                T sums[most];
                clear_row(channels, sums);
                for (int64_t p = rows.first; p < rows.last; ++p) {
                    const int64_t i = rows.position(p);
                    if (i < 0) continue;
                    for (int64_t q = columns.first; q < columns.last; ++q) {
                        const int64_t j = columns.position(q);
                        if (j < 0) continue;
                        const int position = int(i * pool.window_w + j);
                        const E* g = static_cast<const E*>(dy.data) + n * dy.stride[0] + p * dy.stride[2] +
                                     q * dy.stride[3] + first_c;
                        const Code* codes = static_cast<const Code*>(code.data) + n * code.stride[0] +
                                            p * code.stride[2] + q * code.stride[3] + first_c;
                        int64_t c = 0;
                        for (; c + W <= channels; c += W)
                            store(sums + c,
                                  load(sums + c) + select(load_codes<T>(codes + c) == position, load(g + c), Vec<T>{}));
                        for (; c < channels; ++c) sums[c] += select(codes[c] == Code(position), T(g[c]), T(0));
                    }
                }
                copy_row(channels, sums, target + first_c);
            }
        }
    });
}

// Any strides: an item owns one plane of dx, which it makes by stretches of a row.
template <class E, class Code>
void bprop_planes(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    constexpr int64_t most = 512;     // columns at a time
    constexpr int64_t elsewhere = 8;  // sums of what belongs elsewhere, in turns: none waits for the one before
    const int64_t C = dx.size[1], H = dx.size[2], width = dx.size[3];
    parallel_for(threads, dx.size[0] * C, [&](int64_t item, int) {
        const int64_t n = item / C, c = item % C;
        E* plane = static_cast<E*>(dx.data) + n * dx.stride[0] + c * dx.stride[1];
        const E* g = static_cast<const E*>(dy.data) + n * dy.stride[0] + c * dy.stride[1];
        const Code* codes = static_cast<const Code*>(code.data) + n * code.stride[0] + c * code.stride[1];
        for (int64_t first_w = 0; first_w < width; first_w += most) {
            const int64_t columns = min(most, width - first_w);
            const Covers left(first_w, pool.stride_w, pool.pad_w, pool.dilation_w, pool.window_w, pool.Q);
            const Covers right(first_w + columns - 1, pool.stride_w, pool.pad_w, pool.dilation_w, pool.window_w,
                               pool.Q);
            Covers rows(0, pool.stride_h, pool.pad_h, pool.dilation_h, pool.window_h, pool.P);
            for (int64_t h = 0; h < H; ++h, rows.step()) {
                T sums[most + elsewhere];
                clear_row(columns + elsewhere, sums);
                for (int64_t p = rows.first; p < rows.last; ++p) {
                    const int64_t i = rows.position(p);
                    if (i < 0) continue;
                    const E* g_row = g + p * dy.stride[2];
                    const Code* code_row = codes + p * code.stride[2];
                    for (int64_t q = left.first; q < right.last; ++q) {
                        const int64_t j = code_row[q * code.stride[3]] - i * pool.window_w;
                        const int64_t at = q * pool.stride_w - pool.pad_w + j * pool.dilation_w - first_w;
                        // As a mask: a branch would often be guessed wrong.
                        const int64_t here =
                            -int64_t((uint64_t(j) < uint64_t(pool.window_w)) & (uint64_t(at) < uint64_t(columns)));
                        const int64_t spare = columns + (q & (elsewhere - 1));
                        sums[(at & here) | (spare & ~here)] += T(g_row[q * dy.stride[3]]);
                    }
                }
                copy2d(1, columns, sums, columns, 1, plane + h * dx.stride[2] + first_w * dx.stride[3], 1,
                       dx.stride[3]);
            }
        }
    });
}

template <class E, class Code>
void bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    const bool channels_last = dy.stride[1] == 1 && code.stride[1] == 1 && dx.stride[1] == 1;
    (channels_last ? bprop_channels_last<E, Code> : bprop_planes<E, Code>)(dy, code, dx, pool, threads);
}

// Whether codes of this pool take a byte; the same for forward and backward.
bool byte_codes(const Pool2d& pool) { return pool.window_h * pool.window_w <= max_positions; }

}  // namespace

void max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, int threads) {
    with_any_elements(x.dtype, [&](auto element) {
        using E = decltype(element);
        (byte_codes(pool) ? fprop<E, uint8_t> : fprop<E, int32_t>)(x, y, code, pool, threads);
    });
}

void max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    with_any_elements(dy.dtype, [&](auto element) {
        using E = decltype(element);
        (byte_codes(pool) ? bprop<E, uint8_t> : bprop<E, int32_t>)(dy, code, dx, pool, threads);
    });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
