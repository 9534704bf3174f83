// Max-pooling backward, from dy and the codes of the forward pass.
#include "isa_kernels.h"
#include "max_pool2d_quads.h"
#include "pack.h"
#include "parallel.h"
#include "pool_code.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// The windows first <= p < last that cover a place of dx, which is one of its rows or columns. step() moves to the next
// place. Each element of dx adds up the gradients of such windows in their order and is rounded once. No two threads
// add to one element, and the bits are the same in all memory formats.
struct Covers {
    int64_t first, last, place;  // place: counted from the edge of the padding
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
    // The place's position in window p; -1: between two positions.
    int64_t position(int64_t p) const {
        const int64_t distance = place - p * stride;
        if (dilation == 1) return distance;
        return distance % dilation ? -1 : distance / dilation;
    }
};

// Channels as vectors: an item owns one row of dx.
template <class E, class Code>
void bprop_channels_last(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const int64_t N = dx.size[0], C = dx.size[1], H = dx.size[2];
    parallel_for(threads, N * H, [&](int64_t item, int) {
        const int64_t n = item / H, h = item % H;
        const Covers rows(h, pool.stride_h, pool.pad_h, pool.dilation_h, pool.window_h, pool.P);
        Covers columns(0, pool.stride_w, pool.pad_w, pool.dilation_w, pool.window_w, pool.Q);
        E* target = static_cast<E*>(dx.data) + n * dx.stride[0] + h * dx.stride[2];
        const E* g = static_cast<const E*>(dy.data) + n * dy.stride[0];
        const Code* codes = static_cast<const Code*>(code.data) + n * code.stride[0];
        // Calls add(offset of a window in dy, in code, position) for every window that covers (h, w).
        const auto for_each_window = [&](const auto& add) {
            for (int64_t p = rows.first; p < rows.last; ++p) {
                const int64_t i = rows.position(p);
                for (int64_t q = columns.first; i >= 0 && q < columns.last; ++q) {
                    const int64_t j = columns.position(q);
                    if (j >= 0)
                        add(p * dy.stride[2] + q * dy.stride[3], p * code.stride[2] + q * code.stride[3],
                            int(i * pool.window_w + j));
                }
            }
        };
        const auto sum_vectors = [&](int64_t c, auto& sums) {
            constexpr int vectors = sizeof(sums) / sizeof(Vec<T>);
            for_each_window([&](int64_t at, int64_t code_at, int position) {
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v)
                    sums[v] += select(load_codes<T>(codes + code_at + c + v * W) == position, load(g + at + c + v * W),
                                      Vec<T>{});
            });
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) store(target + c + v * W, sums[v]);
        };
        for (int64_t w = 0; w < dx.size[3]; ++w, target += dx.stride[3], columns.step()) {
            int64_t c = 0;
            for (; c + 4 * W <= C; c += 4 * W) {
                Vec<T> sums[4] = {};
                sum_vectors(c, sums);
            }
            for (; c + W <= C; c += W) {
                Vec<T> sums[1] = {};
                sum_vectors(c, sums);
            }
            for (; c < C; ++c) {
                T sum = 0;
                for_each_window([&](int64_t at, int64_t code_at, int position) {
                    sum += select(codes[code_at + c] == Code(position), T(g[at + c]), T(0));
                });
                target[c] = E(sum);
            }
        }
    });
}

// A stretch of a row of dx from column `first` on, and the sums of its gradients.
template <class T>
struct Stretch {
    static constexpr int64_t most = 512;  // columns
    static constexpr int64_t elsewhere =
        8;  // sums of foreign elements, used in rotation so that none waits for the one before
    static constexpr int64_t before = lanes<T>;  // written by vectors, never changed
    int64_t first, columns;
    T room[before + most + elsewhere + lanes<T>] = {};

    T* sums() { return room + before; }
};

// Adds row i of the windows of a row of dy and code, for stride 1. For one column of the windows after another it adds
// the gradients that have their winner there.
template <class E, class Code>
void add_dense(const Pool2d& pool, const E* g, const Code* codes, int64_t i, Stretch<Computed<E>>& stretch) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    Mask<T> lane;
    for (int l = 0; l < W; ++l) lane[l] = l;
    for (int64_t j = pool.window_w - 1; j >= 0; --j) {  // from the first to the last window over a place
        const int64_t at = j * pool.dilation_w - pool.pad_w - stretch.first;  // of window 0
        const int64_t last = min(pool.Q, max(0, stretch.columns - at));
        int64_t q = max(0, -at);
        T* const sums = stretch.sums() + at;
        const int position = int(i * pool.window_w + j);
        // The last windows, together with some before them, which are masked out.
        for (int64_t from; q < last && last >= W; q = from + W) {
            from = min(q, last - W);
            const Mask<T> here = (load_codes<T>(codes + from) == position) & (lane >= int(q - from));
            store(sums + from, load(sums + from) + select(here, load(g + from), Vec<T>{}));
        }
        for (; q < last; ++q) sums[q] += select(codes[q] == Code(position), T(g[q]), T(0));
    }
}

// The same for any strides, one window after another.
template <class E, class Code>
void add_strided(const Pool2d& pool, const E* g, int64_t g_step, const Code* codes, int64_t code_step, int64_t i,
                 Range windows, Stretch<Computed<E>>& stretch) {
    using T = Computed<E>;
    for (int64_t q = windows.first; q < windows.last; ++q) {
        const int64_t j = codes[q * code_step] - i * pool.window_w;
        const int64_t at = q * pool.stride_w - pool.pad_w + j * pool.dilation_w - stretch.first;
        // A mask: a branch would often be mispredicted.
        const int64_t here =
            -int64_t((uint64_t(j) < uint64_t(pool.window_w)) & (uint64_t(at) < uint64_t(stretch.columns)));
        const int64_t spare = stretch.columns + (q & (stretch.elsewhere - 1));
        stretch.sums()[(at & here) | (spare & ~here)] += T(g[q * g_step]);
    }
}

// Any strides: an item owns one plane of dx and computes it in stretches of a row.
template <class E, class Code>
void bprop_planes(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    const int64_t C = dx.size[1], H = dx.size[2], width = dx.size[3];
    const bool dense = dy.stride[3] == 1 && code.stride[3] == 1 && dx.stride[3] == 1 && pool.stride_w == 1;
    parallel_for(threads, dx.size[0] * C, [&, dense](int64_t item, int) {
        const int64_t n = item / C, c = item % C;
        E* plane = static_cast<E*>(dx.data) + n * dx.stride[0] + c * dx.stride[1];
        const E* g = static_cast<const E*>(dy.data) + n * dy.stride[0] + c * dy.stride[1];
        const Code* codes = static_cast<const Code*>(code.data) + n * code.stride[0] + c * code.stride[1];
        Stretch<T> stretch;
        for (stretch.first = 0; stretch.first < width; stretch.first += stretch.most) {
            stretch.columns = min(stretch.most, width - stretch.first);
            const int64_t last_w = stretch.first + stretch.columns - 1;
            const Covers left(stretch.first, pool.stride_w, pool.pad_w, pool.dilation_w, pool.window_w, pool.Q);
            const Covers right(last_w, pool.stride_w, pool.pad_w, pool.dilation_w, pool.window_w, pool.Q);
            Covers rows(0, pool.stride_h, pool.pad_h, pool.dilation_h, pool.window_h, pool.P);
            for (int64_t h = 0; h < H; ++h, rows.step()) {
                clear_row(stretch.columns + stretch.elsewhere, stretch.sums());
                for (int64_t p = rows.first; p < rows.last; ++p) {
                    const int64_t i = rows.position(p);
                    if (i < 0) continue;
                    const E* g_row = g + p * dy.stride[2];
                    const Code* code_row = codes + p * code.stride[2];
                    if (dense) add_dense(pool, g_row, code_row, i, stretch);
                    else
                        add_strided(pool, g_row, dy.stride[3], code_row, code.stride[3], i, {left.first, right.last},
                                    stretch);
                }
                E* out = plane + h * dx.stride[2] + stretch.first * dx.stride[3];
                copy2d(1, stretch.columns, stretch.sums(), stretch.columns, 1, out, 1, dx.stride[3]);
            }
        }
    });
}

template <class E, class Code>
void bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    const auto side_by_side = [&](int dimension) {
        return dy.stride[dimension] == 1 && code.stride[dimension] == 1 && dx.stride[dimension] == 1;
    };
    const bool channels_last = side_by_side(1);
    if constexpr (sizeof(Code) == 1 && sizeof(Computed<E>) == 4)  // for doubles the code is not worth its size
        if (takes_quads(pool) && (channels_last || side_by_side(3)))
            return bprop_quads<E>(dy, code, dx, pool, channels_last, threads);
    (channels_last ? bprop_channels_last<E, Code> : bprop_planes<E, Code>)(dy, code, dx, pool, threads);
}

}  // namespace

void max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    with_any_elements(dy.dtype, [&](auto element) {
        using E = decltype(element);
        (byte_codes(pool) ? bprop<E, uint8_t> : bprop<E, int32_t>)(dy, code, dx, pool, threads);
    });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
