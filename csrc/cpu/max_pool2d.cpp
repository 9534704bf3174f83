// Max-pooling forward and backward. Kept for backward: the winner's row-major position in its window,
// a byte where the window has at most 254 positions, else an int32.
//
// The first of equal values wins, among NaNs the last, as in torch. A window with no input (possible with
// ceil_mode and dilation) gives -inf and has no winner.
#include "isa_kernels.h"
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

template <class T, class Code>
void fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, int threads) {
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
            const T* source = static_cast<const T*>(x.data) + n * x.stride[0] + first_c * x.stride[1] +
                              h * x.stride[2] + w * x.stride[3];
            const int64_t row_step = pool.dilation_h * x.stride[2], column_step = pool.dilation_w * x.stride[3];
            T* target =
                static_cast<T*>(y.data) + n * y.stride[0] + first_c * y.stride[1] + p * y.stride[2] + q * y.stride[3];
            Code* codes = code.data ? static_cast<Code*>(code.data) + n * code.stride[0] + first_c * code.stride[1] +
                                          p * code.stride[2] + q * code.stride[3]
                                    : nullptr;
            int64_t c = 0;
            if (channels_last) {
                for (; c + W <= channels; c += W) {
                    Vec<T> best = splat(-T(__builtin_inf()));
                    Mask<T> winner = Mask<T>{} + no_winner<Code>;
                    find_winner(pool.window_w, rows, columns, Window<Vec<T>, T>{source + c, row_step, column_step},
                                best, winner);
                    store(target + c, best);
                    if (codes) store_codes<T>(codes + c, winner);
                }
            }
            for (; c < channels; ++c) {
                T best = -T(__builtin_inf());
                int winner = no_winner<Code>;
                find_winner(pool.window_w, rows, columns, Window<T, T>{source + c, row_step, column_step}, best,
                            winner);
                target[c] = best;
                if (codes) codes[c] = Code(winner);
            }
        }
    });
}

// Channels side by side: an item owns one row of dx and gathers from the windows that cover it, so that no
// two threads add to one place and sums keep one order.
template <class T, class Code>
void bprop_channels_last(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    constexpr int W = lanes<T>;
    const int64_t N = dx.size[0], C = dx.size[1], H = dx.size[2];
    parallel_for(threads, N * H, [&](int64_t item, int) {
        const int64_t n = item / H, h = item % H;
        T* target = static_cast<T*>(dx.data) + n * dx.stride[0] + h * dx.stride[2];
        for (int64_t w = 0; w < dx.size[3]; ++w) std::memset(target + w * dx.stride[3], 0, size_t(C) * sizeof(T));
        for (int64_t i = 0; i < pool.window_h; ++i) {
            const int64_t above = h + pool.pad_h - i * pool.dilation_h;
            if (above < 0 || above % pool.stride_h || above / pool.stride_h >= pool.P) continue;
            const int64_t p = above / pool.stride_h;
            for (int64_t q = 0; q < pool.Q; ++q) {
                const int64_t w = q * pool.stride_w - pool.pad_w;
                const Range columns = valid_positions(w, pool.dilation_w, pool.window_w, dx.size[3]);
                const T* g = static_cast<const T*>(dy.data) + n * dy.stride[0] + p * dy.stride[2] + q * dy.stride[3];
                const Code* codes =
                    static_cast<const Code*>(code.data) + n * code.stride[0] + p * code.stride[2] + q * code.stride[3];
                for (int64_t j = columns.first; j < columns.last; ++j) {
                    const int position = int(i * pool.window_w + j);
                    T* at = target + (w + j * pool.dilation_w) * dx.stride[3];
                    int64_t c = 0;
                    for (; c + W <= C; c += W)
                        store(at + c,
                              load(at + c) + select(load_codes<T>(codes + c) == position, load(g + c), Vec<T>{}));
                    for (; c < C; ++c) at[c] += select(codes[c] == Code(position), g[c], T(0));
                }
            }
        }
    });
}

// Any strides: an item owns one plane of dx.
template <class T, class Code>
void bprop_planes(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    const int64_t C = dx.size[1], H = dx.size[2], width = dx.size[3];
    parallel_for(threads, dx.size[0] * C, [&](int64_t item, int) {
        const int64_t n = item / C, c = item % C;
        T* plane = static_cast<T*>(dx.data) + n * dx.stride[0] + c * dx.stride[1];
        const T* g = static_cast<const T*>(dy.data) + n * dy.stride[0] + c * dy.stride[1];
        const Code* codes = static_cast<const Code*>(code.data) + n * code.stride[0] + c * code.stride[1];
        for (int64_t h = 0; h < H; ++h)
            for (int64_t w = 0; w < width; ++w) plane[h * dx.stride[2] + w * dx.stride[3]] = 0;
        for (int64_t p = 0; p < pool.P; ++p) {
            for (int64_t q = 0; q < pool.Q; ++q) {
                const int winner = codes[p * code.stride[2] + q * code.stride[3]];
                if (winner == no_winner<Code>) continue;
                const int64_t h = p * pool.stride_h - pool.pad_h + winner / pool.window_w * pool.dilation_h;
                const int64_t w = q * pool.stride_w - pool.pad_w + winner % pool.window_w * pool.dilation_w;
                if (h < 0 || h >= H || w < 0 || w >= width) continue;  // not a code of this pool
                plane[h * dx.stride[2] + w * dx.stride[3]] += g[p * dy.stride[2] + q * dy.stride[3]];
            }
        }
    });
}

template <class T, class Code>
void bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    const bool channels_last = dy.stride[1] == 1 && code.stride[1] == 1 && dx.stride[1] == 1;
    (channels_last ? bprop_channels_last<T, Code> : bprop_planes<T, Code>)(dy, code, dx, pool, threads);
}

// Whether codes of this pool take a byte; the same for forward and backward.
bool byte_codes(const Pool2d& pool) { return pool.window_h * pool.window_w <= max_positions; }

}  // namespace

void max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, int threads) {
    const bool bytes = byte_codes(pool);
    if (x.dtype == DType::float32) (bytes ? fprop<float, uint8_t> : fprop<float, int32_t>)(x, y, code, pool, threads);
    else (bytes ? fprop<double, uint8_t> : fprop<double, int32_t>)(x, y, code, pool, threads);
}

void max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    const bool bytes = byte_codes(pool);
    if (dy.dtype == DType::float32)
        (bytes ? bprop<float, uint8_t> : bprop<float, int32_t>)(dy, code, dx, pool, threads);
    else (bytes ? bprop<double, uint8_t> : bprop<double, int32_t>)(dy, code, dx, pool, threads);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
