// Max-pooling forward. For backward it keeps the winner's row-major position in its window: a byte if the window has at
// most 254 positions, else an int32.
//
// The first of equal values wins, among NaNs the last, as in torch. A window without input (possible with ceil_mode and
// dilation) gives -inf and has no winner.
#include "isa_kernels.h"
#include "pack.h"
#include "parallel.h"
#include "pool_code.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// Loads every STRIDE-th element from p on, and nothing behind the last.
template <int STRIDE, class E>
inline Vec<Computed<E>> load_strided(const E* p) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    if constexpr (STRIDE == 1) return load(p);
    Mask<T> pick;
    for (int i = 0; i < W; ++i) pick[i] = 2 * i < W ? 2 * i : 2 * i + 1;
    return __builtin_shuffle(load(p), load(p + W - 1), pick);
}

// The values of W neighboring windows in a row, STRIDE columns apart.
template <int STRIDE, class E>
struct WindowRow {
    const E* start;
    int64_t row_step, column_step;

    Vec<Computed<E>> operator()(int64_t i, int64_t j) const {
        return load_strided<STRIDE>(start + i * row_step + j * column_step);
    }
};

// The values of one window, each in all lanes: branches on them would often be mispredicted.
template <class E>
struct OneWindow {
    const E* start;
    int64_t row_step, column_step;

    Vec<Computed<E>> operator()(int64_t i, int64_t j) const {
        return splat(Computed<E>(start[i * row_step + j * column_step]));
    }
};

// The source of windows' values, and the target of their winners.
template <class E, class Code>
struct Row {
    using T = Computed<E>;
    const E* source;
    int64_t row_step, column_step;
    E* target;
    Code* codes;  // may be null

    // Stores the winners of the windows with these values, as many as `count`.
    template <class Values>
    void find(const Values& values, const Pool2d& pool, Range rows, Range columns, int64_t count, int64_t target_at,
              int64_t code_at) const {
        constexpr int W = lanes<T>;
        Vec<T> best = Vec<T>{} - T(__builtin_inf());
        Mask<T> winner = Mask<T>{} + no_winner<Code>;
        find_winner(pool.window_w, rows, columns, values, best, winner);
        if (count == W) {
            store(target + target_at, best);
            if (codes) store_codes<T>(codes + code_at, winner);
            return;
        }
        E target_room[W];
        store(target_room, best);
        copy_part(target_room, count, target + target_at);
        if (!codes) return;
        Code code_room[W];
        store_codes<T>(code_room, winner);
        for (int64_t l = 0; l < count; ++l) codes[code_at + l] = code_room[l];
    }
};

// Work items are rows of windows over a block of channels. Vectors are over channels if these are neighbors in memory,
// else over windows.
template <class E, class Code>
void fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool_, int threads) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const Pool2d pool = pool_;  // a local copy: the compiler then knows that stores to y do not change it
    const int64_t N = x.size[0], C = x.size[1];
    const auto side_by_side = [&](int dimension) {
        return x.stride[dimension] == 1 && y.stride[dimension] == 1 && (!code.data || code.stride[dimension] == 1);
    };
    const bool channels_last = side_by_side(1), rows_dense = !channels_last && side_by_side(3);
    const int64_t channels = channels_last ? C : 1;
    const int64_t blocks = channels ? C / channels : 0;
    const E* const x_end = end_of<E>(x);
    parallel_for_even(threads, N * blocks * pool.P, [=, &x, &y, &code](int64_t item) {
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
        // Windows inside the row, W at a time; the last vector overlaps the one before. With fewer windows, unused
        // lanes read behind the row, if x goes on there.
        int64_t first = 0, last = 0;
        if (rows_dense && pool.stride_w <= 2) {
            const int64_t end = x.size[3] + pool.pad_w - (pool.window_w - 1) * pool.dilation_w;
            first = ceil_div(pool.pad_w, pool.stride_w), last = min(pool.Q, ceil_div(max(0, end), pool.stride_w));
            const E* const last_read = row.source + (rows.last - 1) * row.row_step + (first + W - 1) * pool.stride_w -
                                       pool.pad_w + (pool.window_w - 1) * row.column_step;
            if (last - first < W && last_read >= x_end) last = 0;
            if (last <= first) last = first = 0;
        }
        const int64_t count = min(W, last - first);
        for (int64_t q = first; q < last; q += W) {
            const int64_t at = min(q, last - count);
            const E* start = row.source + at * pool.stride_w - pool.pad_w;
            const Range all = {0, pool.window_w};
            if (pool.stride_w == 1)
                row.find(WindowRow<1, E>{start, row.row_step, row.column_step}, pool, rows, all, count, at, at);
            else row.find(WindowRow<2, E>{start, row.row_step, row.column_step}, pool, rows, all, count, at, at);
        }
        // Windows before and behind those.
        for (int64_t q = first ? 0 : last; q < pool.Q; q = q + 1 == first ? last : q + 1) {
            const Range columns =
                valid_positions(q * pool.stride_w - pool.pad_w, pool.dilation_w, pool.window_w, x.size[3]);
            const E* start = row.source + (q * pool.stride_w - pool.pad_w) * x.stride[3];
            const int64_t target_at = q * y.stride[3], code_at = q * code.stride[3];
            int64_t c = 0;
            if (channels_last)
                for (; c + W <= channels; c += W)
                    row.find(Window<Vec<T>, E>{start + c, row.row_step, row.column_step}, pool, rows, columns, W,
                             target_at + c, code_at + c);
            for (; c < channels; ++c)
                row.find(OneWindow<E>{start + c, row.row_step, row.column_step}, pool, rows, columns, 1, target_at + c,
                         code_at + c);
        }
    });
}

}  // namespace

void max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, int threads) {
    with_any_elements(x.dtype, [&](auto element) {
        using E = decltype(element);
        (byte_codes(pool) ? fprop<E, uint8_t> : fprop<E, int32_t>)(x, y, code, pool, threads);
    });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
