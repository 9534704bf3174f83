// wgrad: the gradients of a convolution's weight and bias.
//
//     dw[k, c, r, s] = sum over n, p, q of g[n, k, p, q] * x[n, c, p * stride - pad + r * dilation, ...]
//     dbias[k]       = sum over n, p, q of g[n, k, p, q]
//
// g is the gradient of the convolution's output, computed from dy and the code while it is loaded (GradientView). As a
// matrix product (conv2d_gemm.cuh):
//
//   rows     taps (c, r, s) of one group, (r, s, c) if x's channels lie together; one more, with x = 1, if dbias is
//            wanted
//   columns  filters k of that group
//   steps    pixels (n, p, q) of g
//
// Rows and columns are few and steps are many, so the steps are split over blocks. A block writes the accumulators of
// one split to the workspace, [split][k][row]. conv2d_wgrad_sum.cuh adds the splits up.
#pragma once

#include "conv2d_mma.cuh"
#include "conv2d_views.cuh"

namespace fastconv::cuda {

// `access`: the ways to read both operands. Tensor cores have one kernel for vectors and one for single elements, since
// the two keep operands in shared memory in different orders.
template <class T, int access>
struct WgradParameters {
    Source<ImageView<T, true>, access> x;
    Source<GradientView<T>, access> gradient;
    Accumulator<T>* partial;
    Geometry conv;
    Strides x_strides, dy_strides;
    Pixels pixels;
    Taps taps;
    StepCounter x_counter, gradient_counter;  // of the tensor-core product
    int weight_rows, rows;                    // without and with the bias
    int steps, steps_per_split, row_tiles, column_tiles;
};

// The block's position in the grid. One thread computes it into shared memory, which leaves the registers to the main
// loop.
struct WgradBlock {
    int first_row, first_column, group, split;
};

template <class Tile>
struct WgradMemory {
    GemmMemory<Tile> gemm;
    WgradBlock* block;
    FASTCONV_HOST_DEVICE explicit WgradMemory(simt::Shared& shared) : gemm(shared), block(shared.take<WgradBlock>(1)) {}
};

template <class T, class Tile, int access>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::fewer_blocks)
conv2d_wgrad_kernel(const WgradParameters<T, access> d) {
    using Acc = typename Tile::Acc;
    simt::Shared shared = simt::block_shared();
    const WgradMemory<Tile> all(shared);
    const GemmMemory<Tile>& memory = all.gemm;
    WgradBlock& block = *all.block;
    const Geometry& conv = d.conv;
    if (simt::thread() == 0) {
        int rest = simt::block().x;
        block.first_column = rest % d.column_tiles * Tile::columns;
        rest /= d.column_tiles;
        block.first_row = rest % d.row_tiles * Tile::rows;
        rest /= d.row_tiles;
        block.group = rest % conv.groups, block.split = rest / conv.groups;
    }
    simt::sync();

    for (int i = simt::thread(); i < Tile::rows; i += Tile::threads) {
        const int row = block.first_row + i;
        const Tap t = d.taps.at(row);
        const int h = t.r * conv.dilation_h - conv.pad_h, w = t.s * conv.dilation_w - conv.pad_w;
        Coord coord = no_coord();
        if (row < d.weight_rows) coord = {d.x_strides.at(0, block.group * conv.channels + t.c, h, w), h, w, 0, 0};
        else if (row < d.rows) coord.k = 1;
        memory.rows.put(i, coord);
    }
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads) {
        const int k = block.group * conv.filters + block.first_column + i;
        memory.columns.put(i,
                           block.first_column + i < conv.filters ? Coord{k * d.dy_strides.c, 0, 0, 0, k} : no_coord());
    }
    const int first_step = block.split * d.steps_per_split;
    const int last_step = least(d.steps, first_step + d.steps_per_split);
    Sums<Tile> sums;
    if constexpr (Tile::tensor_cores)
        gemm(sums, memory, d.x, d.x_counter, d.gradient, d.gradient_counter, first_step, last_step);
    else
        gemm(sums, memory, d.x, d.gradient, first_step, last_step,
             [&](int step, Coord& x_coord, Coord& gradient_coord) {
                 const Pixel i = d.pixels.at(step);
                 const int h = i.p * conv.stride_h, w = i.q * conv.stride_w;
                 x_coord = {d.x_strides.at(i.n, 0, h, w), h, w, 0, 0};
                 gradient_coord = {d.dy_strides.at(i.n, 0, i.p, i.q), i.p, i.q, i.n, 0};
             });

    sums.store(memory.buffer, [](int) { return Acc(0); });
    for (int i = simt::thread(); i < Tile::rows; i += Tile::threads)
        memory.rows.put(i, block.first_row + i < d.rows ? Coord{block.first_row + i, 0, 0, 0, 0} : no_coord());
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads) {
        const int64_t k = int64_t(block.split) * conv.K + block.group * conv.filters + block.first_column + i;
        memory.columns.put(i, block.first_column + i < conv.filters ? Coord{k * d.rows, 0, 0, 0, 0} : no_coord());
    }
    simt::sync();
    write_tile(d.partial, memory, false, false, [](Acc sum) { return sum; });
}

}  // namespace fastconv::cuda
