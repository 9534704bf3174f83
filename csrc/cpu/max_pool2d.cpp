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

// Every STRIDE-th element from p on; reads nothing behind the last.
template <int STRIDE, class E>
inline Vec<Computed<E>> load_strided(const E* p) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    if constexpr (STRIDE == 1) return load(p);
    Mask<T> pick;
    for (int i = 0; i < W; ++i) pick[i] = 2 * i < W ? 2 * i : 2 * i + 1;
    return __builtin_shuffle(load(p), load(p + W - 1), pick);
}

// The values of W windows side by side in a row, STRIDE columns from one to the next.
template <int STRIDE, class E>
struct WindowRow {
    const E* start;
    int64_t row_step, column_step;

    Vec<Computed<E>> operator()(int64_t i, int64_t j) const {
        return load_strided<STRIDE>(start + i * row_step + j * column_step);
    }
};

// Where windows' values are read from, and their winners go.
template <class E, class Code>
struct Row {
    const E* source;
    int64_t row_step, column_step;
    E* target;
    Code* codes;  // may be null

    // The winners of the windows whose values these are.
    template <class V, class M, class Values>
    void find(const Values& values, const Pool2d& pool, Range rows, Range columns, int64_t target_at,
              int64_t code_at) const {
        V best = V{} - Computed<E>(__builtin_inf());
        M winner = M{} + no_winner<Code>;
        find_winner(pool.window_w, rows, columns, values, best, winner);
        if constexpr (sizeof(V) == sizeof(Computed<E>)) {
            target[target_at] = E(best);
            if (codes) codes[code_at] = Code(winner);
        } else {
            store(target + target_at, best);
            if (codes) store_codes<Computed<E>>(codes + code_at, winner);
        }
    }
};

// An item is a row of windows over a block of channels: vectors are over channels where those lie side by side, else
// over windows.
template <class E, class Code>
void fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const int64_t N = x.size[0], C = x.size[1];
    const auto side_by_side = [&](int dimension) {
        return x.stride[dimension] == 1 && y.stride[dimension] == 1 && (!code.data || code.stride[dimension] == 1);
    };
    const bool channels_last = side_by_side(1), rows_dense = !channels_last && side_by_side(3);
    const int64_t channels = channels_last ? C : 1;
    const int64_t blocks = channels ? C / channels : 0;
    parallel_for(threads, N * blocks * pool.P, [&, channels, channels_last](int64_t item, int) {
        const int64_t p = item % pool.P, first_c = item / pool.P % blocks * channels, n = item / pool.P / blocks;
        const int64_t h = p * pool.stride_h - pool.pad_h;
        const Range rows = valid_positions(h, pool.dilation_h, pool.window_h, x.size[2]);
        const Row<E, Code> row = {
            static_cast<const E*>(x.data) + n * x.stride[0] + first_c * x.stride[1] + h * x.stride[2],
            pool.dilation_h * x.stride[2], pool.dilation_w * x.stride[3],
            static_cast<E*>(y.data) + n * y.stride[0] + first_c * y.stride[1] + p * y.stride[2],
            code.data
                ? static_cast<Code*>(code.data) + n * code.stride[0] + first_c * code.stride[1] + p * code.stride[2]
                : nullptr};
        const auto columns_of = [&](int64_t q) {
            return valid_positions(q * pool.stride_w - pool.pad_w, pool.dilation_w, pool.window_w, x.size[3]);
        };
        // Windows that lie inside of the row, W at a time; the last ones over their neighbours.
        int64_t first = 0, last = 0;
        if (rows_dense && pool.stride_w <= 2) {
            const int64_t end = x.size[3] + pool.pad_w - (pool.window_w - 1) * pool.dilation_w;
            first = ceil_div(pool.pad_w, pool.stride_w), last = min(pool.Q, ceil_div(max(0, end), pool.stride_w));
            if (last - first < W) last = first = 0;
        }
        for (int64_t q = first; q < last; q += W) {
            const int64_t at = min(q, last - W);
            const E* start = row.source + at * pool.stride_w - pool.pad_w;
            const Range all = {0, pool.window_w};
            if (pool.stride_w == 1)
                row.template find<Vec<T>, Mask<T>>(WindowRow<1, E>{start, row.row_step, row.column_step}, pool, rows,
                                                   all, at, at);
            else
                row.template find<Vec<T>, Mask<T>>(WindowRow<2, E>{start, row.row_step, row.column_step}, pool, rows,
                                                   all, at, at);
        }
        for (int64_t q = 0; q < pool.Q; ++q) {
            if (q >= first && q < last) continue;
            const Range columns = columns_of(q);
            const E* start = row.source + (q * pool.stride_w - pool.pad_w) * x.stride[3];
            const int64_t target_at = q * y.stride[3], code_at = q * code.stride[3];
            int64_t c = 0;
            if (channels_last)
                for (; c + W <= channels; c += W)
                    row.template find<Vec<T>, Mask<T>>(Window<Vec<T>, E>{start + c, row.row_step, row.column_step},
                                                       pool, rows, columns, target_at + c, code_at + c);
            for (; c < channels; ++c)
                row.template find<T, int>(Window<T, E>{start + c, row.row_step, row.column_step}, pool, rows, columns,
                                          target_at + c, code_at + c);
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
    const int64_t N = dx.size[0], C = dx.size[1], H = dx.size[2];
    parallel_for(threads, N * H, [&](int64_t item, int) {
        const int64_t n = item / H, h = item % H;
        const Covers rows(h, pool.stride_h, pool.pad_h, pool.dilation_h, pool.window_h, pool.P);
        Covers columns(0, pool.stride_w, pool.pad_w, pool.dilation_w, pool.window_w, pool.Q);
        E* target = static_cast<E*>(dx.data) + n * dx.stride[0] + h * dx.stride[2];
        const E* g = static_cast<const E*>(dy.data) + n * dy.stride[0];
        const Code* codes = static_cast<const Code*>(code.data) + n * code.stride[0];
        // add(offset of a window in dy, in code, position) for every window that reaches over (h, w)
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

// A stretch of a row of dx, from column `first` on, and what windows add to it: with stride 2 first the sums of the
// even columns, then from `odd` on those of the odd ones.
template <class T>
struct Stretch {
    static constexpr int64_t most = 512;     // columns
    static constexpr int64_t elsewhere = 8;  // sums of what belongs elsewhere, in turns: none waits for the one before
    static constexpr int64_t before = lanes<T>;  // that vectors write to, but change nothing
    int64_t first, columns, odd;
    T room[before + most + elsewhere + lanes<T>] = {};

    T* sums() { return room + before; }
};

// Adds row i of the windows in a row of dy and code, strides 1 and 2: for one column of the windows after the other the
// gradients of those that have their winner there.
template <class E, class Code>
void add_dense(const Pool2d& pool, const E* g, const Code* codes, int64_t i, Stretch<Computed<E>>& stretch) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const int64_t stride = pool.stride_w;
    Mask<T> lane;
    for (int l = 0; l < W; ++l) lane[l] = l;
    for (int64_t j = pool.window_w - 1; j >= 0; --j) {  // from the first to the last window over a place
        const int64_t at = j * pool.dilation_w - pool.pad_w - stretch.first;  // of window 0
        const int64_t last = min(pool.Q, ceil_div(max(0, stretch.columns - at), stride));
        int64_t q = max(0, ceil_div(max(0, -at), stride));
        const int64_t phase = at & (stride - 1), shift = (at - phase) / stride;
        T* const sums = stretch.sums() + phase * stretch.odd + shift;
        const int position = int(i * pool.window_w + j);
        // The last windows together with some before them, which count no more.
        for (int64_t from; q < last && last >= W; q = from + W) {
            from = min(q, last - W);
            const Mask<T> here = (load_codes<T>(codes + from) == position) & (lane >= int(q - from));
            store(sums + from, load(sums + from) + select(here, load(g + from), Vec<T>{}));
        }
        for (; q < last; ++q) sums[q] += select(codes[q] == Code(position), T(g[q]), T(0));
    }
}

// The same for any strides, window after window.
template <class E, class Code>
void add_strided(const Pool2d& pool, const E* g, int64_t g_step, const Code* codes, int64_t code_step, int64_t i,
                 Range windows, Stretch<Computed<E>>& stretch) {
    using T = Computed<E>;
    for (int64_t q = windows.first; q < windows.last; ++q) {
        const int64_t j = codes[q * code_step] - i * pool.window_w;
        const int64_t at = q * pool.stride_w - pool.pad_w + j * pool.dilation_w - stretch.first;
        // As a mask: a branch would often be guessed wrong.
        const int64_t here =
            -int64_t((uint64_t(j) < uint64_t(pool.window_w)) & (uint64_t(at) < uint64_t(stretch.columns)));
        const int64_t spare = stretch.columns + (q & (stretch.elsewhere - 1));
        stretch.sums()[(at & here) | (spare & ~here)] += T(g[q * g_step]);
    }
}

// out[2 * i] = even[i], out[2 * i + 1] = odd[i]
template <class T, class E>
void interleave(const T* even, const T* odd, int64_t columns, E* out) {
    constexpr int W = lanes<T>;
    int64_t i = 0;
    Mask<T> low, high;
    for (int l = 0; l < W; ++l) low[l] = l / 2 + l % 2 * W, high[l] = low[l] + W / 2;
    for (; 2 * i + 2 * W <= columns; i += W) {
        const Vec<T> a = load(even + i), b = load(odd + i);
        store(out + 2 * i, Vec<T>(__builtin_shuffle(a, b, low)));
        store(out + 2 * i + W, Vec<T>(__builtin_shuffle(a, b, high)));
    }
    for (int64_t w = 2 * i; w < columns; ++w) out[w] = E(w % 2 ? odd[w / 2] : even[w / 2]);
}

// Any strides: an item owns one plane of dx, which it makes by stretches of a row.
template <class E, class Code>
void bprop_planes(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, int threads) {
    using T = Computed<E>;
    const int64_t C = dx.size[1], H = dx.size[2], width = dx.size[3];
    const bool dense = dy.stride[3] == 1 && code.stride[3] == 1 && dx.stride[3] == 1 && pool.stride_w <= 2;
    parallel_for(threads, dx.size[0] * C, [&, dense](int64_t item, int) {
        const int64_t n = item / C, c = item % C;
        E* plane = static_cast<E*>(dx.data) + n * dx.stride[0] + c * dx.stride[1];
        const E* g = static_cast<const E*>(dy.data) + n * dy.stride[0] + c * dy.stride[1];
        const Code* codes = static_cast<const Code*>(code.data) + n * code.stride[0] + c * code.stride[1];
        Stretch<T> stretch;
        for (stretch.first = 0; stretch.first < width; stretch.first += stretch.most) {
            stretch.columns = min(stretch.most, width - stretch.first);
            stretch.odd = ceil_div(stretch.columns, 2);
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
                if (dense && pool.stride_w == 2)
                    interleave(stretch.sums(), stretch.sums() + stretch.odd, stretch.columns, out);
                else copy2d(1, stretch.columns, stretch.sums(), stretch.columns, 1, out, 1, dx.stride[3]);
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
