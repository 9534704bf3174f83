// wgrad of a convolution followed by ReLU and a 2x2 max-pool whose windows do not overlap:
//
//     dw[k, c, r, s] = sum over n, pp, qq of dy[n, k, pp, qq] * x[n, c, p * stride - pad + r * dilation, ...]
//     dbias[k]       = sum over n, pp, qq of dy[n, k, pp, qq]
//
// The sums run over the windows (pp, qq) that are not dead. (p, q) is the pixel of the window's winner, which the code
// gives for each k. As a matrix product:
//
//   rows     filters k of one group
//   columns  taps (r, s, c) of that group; one more, with x = 1, if dbias is wanted
//   steps    (n, pp, qq, position)
//
// The gradient of the convolution's output is never in memory, and each pooled gradient is read once.
//
//   a block   computes Tile::rows x Tile::columns accumulators over one split of the windows and writes them to the
//             workspace, [split][k][column] (conv2d_wgrad_sum.cuh). A stage in shared memory holds an iteration's
//             pooled gradients and codes, unchanged, and its x. Later stages are copied meanwhile
//   a warp    multiplies on tensor cores, dense or sparse (conv2d_wgrad_pool2x2_mma.cuh)
//   a thread  copies 16 bytes at a time: the same columns of x, at all four positions of some windows
#pragma once

#include "conv2d_views.cuh"
#include "conv2d_wgrad_pool2x2_mma.cuh"

namespace fastconv::cuda {

template <class T>
struct WgradPool2x2Parameters {
    ImageView<T> x;
    const T* dy;
    const uint8_t* code;
    float* partial;
    Geometry conv;
    Strides x_strides;
    StepCounter counter;  // from window to window in x
    Coord right, below;   // from one position in a window to the next
    Taps taps;
    int weight_columns, columns;             // without and with the bias
    int windows, windows_per_split;          // of all images
    int row_tiles, column_tiles, code_step;  // code_step: bytes from window to window
};

// The block's position in the grid. One thread computes it into shared memory, which leaves the registers to the main
// loop.
struct WgradPool2x2Block {
    int first_row, first_column, group, split;
};

template <class Tile>
struct WgradPool2x2Memory {
    Pool2x2Stages<Tile> stages;  // afterwards the sums
    WgradPool2x2Block* block;
    FASTCONV_HOST_DEVICE explicit WgradPool2x2Memory(simt::Shared& shared)
        : stages(shared), block(shared.take<WgradPool2x2Block>(1)) {}
};

// A thread's copies: one chunk of columns of x for some windows, and gradients and codes of neighboring filters for
// some windows. Every iteration copies the same ones of later windows.
template <class Tile>
class Pool2x2Copies {
    using T = typename Tile::T;
    using Parameters = WgradPool2x2Parameters<T>;
    static constexpr int vector = Tile::vector;

    // Share distributes an iteration's windows, each in `in_window` parts, to the threads.
    template <int in_window>
    struct Share {
        static constexpr int apart = Tile::threads / in_window;  // windows from one of a thread to its next
        FASTCONV_DEVICE static int part() { return simt::thread() % in_window; }
        FASTCONV_DEVICE static int window() { return simt::thread() / in_window; }
        template <class Visit>
        FASTCONV_DEVICE static void each(const Visit& visit) {
            FASTCONV_UNROLL
            for (int i = 0; i < Tile::windows; i += apart)
                if (apart <= Tile::windows || window() < Tile::windows) visit(window() + i, i);
        }
    };
    using XShare = Share<Tile::columns / vector>;
    using GradientShare = Share<Tile::rows / vector>;
    using CodeShare = Share<Tile::rows / 8>;

public:
    // Windows from one to the next whose x a thread copies.
    static constexpr int chunk_stride = XShare::apart;

    // Columns without a tap hold ones for the bias, or zeros, and are written to all stages once.
    FASTCONV_DEVICE Pool2x2Copies(const Parameters& d, const WgradPool2x2Block& block,
                                  const Pool2x2Stages<Tile>& stages, int first_window)
        : window_(first_window), cursor_(d.counter, first_window + XShare::window()) {
        const int filter = block.first_row + GradientShare::part() * vector;
        const int code_filter = block.first_row + CodeShare::part() * 8;
        const int64_t first_filter = block.group * d.conv.filters;
        gradients_ = d.dy + (first_window + GradientShare::window()) * int64_t(d.conv.K) + first_filter + filter;
        codes_ =
            d.code + (first_window + CodeShare::window()) * int64_t(d.code_step) + (first_filter + code_filter) / 2;
        has_filter_ = filter < d.conv.filters, has_code_ = code_filter < d.conv.filters;

        const int column = block.first_column + XShare::part() * vector;
        has_tap_ = column < d.weight_columns;
        if (has_tap_) {
            const Tap t = d.taps.at(column);
            const int h = t.r * d.conv.dilation_h - d.conv.pad_h, w = t.s * d.conv.dilation_w - d.conv.pad_w;
            column_ = {d.x_strides.at(0, block.group * d.conv.channels + t.c, h, w), h, w, 0, 0};
        } else {
            simt::Pack<T, vector> ones;
            for (int v = 0; v < vector; ++v) ones[v] = T(column + v < d.columns ? 1.0f : 0.0f);
            for (int stage = 0; stage < Tile::Mma::stages; ++stage)
                for (int step = XShare::window(); step < Tile::Mma::steps; step += XShare::apart)
                    simt::store(stages.x(stage) + x_place(step), ones);
        }
    }

    // Copies the next iteration's windows to a stage. Gradients beyond the last window are zero.
    FASTCONV_DEVICE void copy(const Parameters& d, const Pool2x2Stages<Tile>& stages, int stage) {
        GradientShare::each([&](int window, int i) {
            simt::copy_async<vector>(
                stages.gradients(stage) + Tile::gradient_place(window, GradientShare::part() * vector),
                gradients_ + int64_t(i) * d.conv.K, has_filter_ && window_ + window < d.windows);
        });
        CodeShare::each([&](int window, int i) {
            simt::copy_async<4>(stages.codes(stage) + Tile::code_place(window, CodeShare::part() * 8),
                                codes_ + int64_t(i) * d.code_step, has_code_ && window_ + window < d.windows);
        });
        window_ += Tile::windows;
        gradients_ += int64_t(Tile::windows) * d.conv.K, codes_ += int64_t(Tile::windows) * d.code_step;
        if (!has_tap_) return;
        XShare::each([&](int window, int) {
            const Coord first = column_ + cursor_.coord(d.counter);
            cursor_.next(d.counter, d.counter.chunk_stride);
            FASTCONV_UNROLL
            for (int position = 0; position < 4; ++position) {
                Coord coord = first;
                if (position / 2) coord = coord + d.below;
                if (position % 2) coord = coord + d.right;
                simt::copy_async<vector>(stages.x(stage) + x_place(Tile::step_of(window, position)), d.x.at(coord),
                                         d.x.inside(coord));
            }
        });
    }

private:
    FASTCONV_DEVICE static int x_place(int step) {
        return Tile::Mma::template place<true, Tile::columns>(step, XShare::part() * vector);
    }

    int window_;  // the first of the next iteration
    const T* gradients_;
    const uint8_t* codes_;
    StepCursor cursor_;
    Coord column_;
    bool has_filter_, has_code_, has_tap_;
};

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::Mma::fewer_blocks)
conv2d_wgrad_pool2x2_kernel(const WgradPool2x2Parameters<T> d) {
    simt::Shared shared = simt::block_shared();
    const WgradPool2x2Memory<Tile> memory(shared);
    WgradPool2x2Block& block = *memory.block;
    if (simt::thread() == 0) {
        int rest = simt::block().x;
        block.first_row = rest % d.row_tiles * Tile::rows;
        rest /= d.row_tiles;
        block.first_column = rest % d.column_tiles * Tile::columns;
        rest /= d.column_tiles;
        block.group = rest % d.conv.groups, block.split = rest / d.conv.groups;
    }
    simt::sync();

    const int first_window = block.split * d.windows_per_split;
    const int iterations = ceil_div(least(d.windows - first_window, d.windows_per_split), Tile::windows);
    Pool2x2Copies<Tile> copies(d, block, memory.stages, first_window);
    const Metadata dealer;
    Sums<typename Tile::Mma> sums;
    sums.clear();
    pipelined_loop<Tile::Mma::stages>(
        iterations, [&](int stage) { copies.copy(d, memory.stages, stage); },
        [&](int stage) { add_windows(sums, memory.stages, stage, dealer); });

    float* const buffer = memory.stages.sums();
    sums.store(buffer, [](int) { return 0.0f; });
    simt::sync();
    const int filters = d.conv.filters - block.first_row, columns = d.columns - block.first_column;
    const int64_t first_k = int64_t(block.split) * d.conv.K + block.group * d.conv.filters + block.first_row;
    for (int i = simt::thread(); i < Tile::rows * Tile::columns; i += Tile::threads) {
        const int row = i / Tile::columns, column = i % Tile::columns;
        // Sums gives a lane rows lane / 4 and lane / 4 + 8 of a product's 16.
        const int warp_row = row % Tile::Mma::warp_rows;
        const int k = row - warp_row + Tile::filter(warp_row % 8 * 4, warp_row / 8);
        if (k < filters && column < columns)
            d.partial[(first_k + k) * d.columns + block.first_column + column] =
                buffer[Tile::Mma::sum_place(row, column)];
    }
}

}  // namespace fastconv::cuda
