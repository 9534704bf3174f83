// fprop fused with ReLU and any max-pool. The convolution's output stays in shared memory.
//
//     y, code[n, k, pp, qq] of conv_y[n, k, pp * pool_stride - pool_pad + i * pool_dilation, ...] over positions (i, j)
//                           of a window, as defined in conv2d_pool_output.cuh
//
// The product is conv2d_fprop.cuh's, but a block owns a rectangle of pooled pixels of one image. Its rows are the
// pixels of the convolution's output below that rectangle; pixels under windows of two blocks are computed twice. If
// not even one pooled pixel's rectangle fits into a tile, the block owns one pooled pixel. Its rows are then the
// window's positions, in several passes of a tile each, with the winners so far in shared memory.
//
// Neighboring threads pool neighboring pairs of columns, as the code lies in memory.
#pragma once

#include "conv2d_fprop.cuh"
#include "conv2d_pool_output.cuh"
#include "conv2d_pool_tiling.cuh"

namespace fastconv::cuda {

template <class T>
struct FpropPoolOutput : PoolOutput<T> {
    PoolTiling tiling;
    Divider width, pooled_w;  // of the tiling
};

// The block's position in the grid, computed by one thread into shared memory.
struct PoolBlock {
    int n, group, first_column, pp, qq;  // (pp, qq): its first pooled pixel
};

template <class Tile>
struct FpropPoolMemory {
    GemmMemory<Tile> gemm;
    PoolBlock* block;
    Winner<typename Tile::Acc>* winners;  // of earlier passes, by column
    FASTCONV_HOST_DEVICE explicit FpropPoolMemory(simt::Shared& shared)
        : gemm(shared),
          block(shared.take<PoolBlock>(1)),
          winners(shared.take<Winner<typename Tile::Acc>>(Tile::columns)) {}
};

// Writes the coordinates of the pass whose first row is the block's row `first_row`.
template <class T, class Tile>
FASTCONV_DEVICE void describe_tile(const FpropInput<T>& in, const FpropPoolOutput<T>& out, const PoolBlock& block,
                                   int first_row, const GemmMemory<Tile>& memory) {
    const PoolTiling& tiling = out.tiling;
    for (int i = simt::thread(); i < Tile::rows; i += Tile::threads) {
        int column = first_row + i;
        const int row = out.width.split(column);
        const int p = block.pp * out.pool.stride_h - out.pool.pad_h + row * tiling.step_h;
        const int q = block.qq * out.pool.stride_w - out.pool.pad_w + column * tiling.step_w;
        const bool inside =
            row < tiling.height && unsigned(p) < unsigned(in.conv.P) && unsigned(q) < unsigned(in.conv.Q);
        memory.rows.put(i, inside ? in.pixel(block.group, block.n, p, q) : no_coord());
    }
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads)
        memory.columns.put(i, in.filter(block.group, block.first_column + i));
}

// Calls visit(i, j), row by row, for the positions of window (pp, qq) inside the convolution's output.
template <class Visit>
FASTCONV_DEVICE void each_position(const PoolGeometry& pool, const Geometry& conv, int pp, int qq, const Visit& visit) {
    const int first_p = pp * pool.stride_h - pool.pad_h, first_q = qq * pool.stride_w - pool.pad_w;
    for (int i = 0; i < pool.window_h; ++i) {
        if (unsigned(first_p + i * pool.dilation_h) >= unsigned(conv.P)) continue;
        for (int j = 0; j < pool.window_w; ++j)
            if (unsigned(first_q + j * pool.dilation_w) < unsigned(conv.Q)) visit(i, j);
    }
}

// Reads two neighboring columns of a row of the tile in shared memory, rounded to T.
template <class T, class Tile>
FASTCONV_DEVICE simt::Pack<typename Tile::Acc, 2> sums_at(const typename Tile::Acc* buffer, int row, int column) {
    using Acc = typename Tile::Acc;
    const auto sums = simt::load<2>(buffer + Tile::sum_place(row, column));
    return {{Acc(T(sums[0])), Acc(T(sums[1]))}};
}

// Pools a pass's sums, which lie in shared memory. The last pass writes the block's pooled pixels. A block with several
// passes has one pooled pixel and keeps its winners in shared memory between passes, by column.
template <class T, class Tile>
FASTCONV_DEVICE void pool_tile(const Geometry& conv, const FpropPoolOutput<T>& out, const PoolBlock& block, int pass,
                               const typename Tile::Acc* buffer, Winner<typename Tile::Acc>* so_far) {
    constexpr int pairs = Tile::columns / 2;
    static_assert(pairs <= Tile::threads);  // a thread keeps its columns from pass to pass
    const PoolGeometry& pool = out.pool;
    const PoolTiling& tiling = out.tiling;
    // Distances in the rectangle from one window position to the next.
    const int position_h = pool.dilation_h / tiling.step_h, position_w = pool.dilation_w / tiling.step_w;
    for (int e = simt::thread(); e < tiling.pooled_h * tiling.pooled_w * pairs; e += Tile::threads) {
        const int column = e % pairs * 2;
        int v = e / pairs;
        const int u = out.pooled_w.split(v);
        const int pp = block.pp + u, qq = block.qq + v;
        if (block.first_column + column >= conv.filters || pp >= pool.P || qq >= pool.Q) continue;
        Winner<typename Tile::Acc> winners[2];
        if (pass > 0) winners[0] = so_far[column], winners[1] = so_far[column + 1];
        each_position(pool, conv, pp, qq, [&](int i, int j) {
            const int row = (u * pool.stride_h + i * position_h) * tiling.width + v * pool.stride_w + j * position_w -
                            pass * Tile::rows;
            if (unsigned(row) >= unsigned(Tile::rows)) return;
            const auto sums = sums_at<T, Tile>(buffer, row, column);
            FASTCONV_UNROLL
            for (int c = 0; c < 2; ++c) winners[c].see(sums[c], i * pool.window_w + j);
        });
        if (pass < tiling.passes - 1) {
            so_far[column] = winners[0], so_far[column + 1] = winners[1];
            continue;
        }
        out.write(out.place(block.group, block.n, pp, qq), block.first_column + column, winners);
    }
}

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::fewer_blocks)
conv2d_fprop_pool_kernel(const FpropInput<T> in, const FpropPoolOutput<T> out) {
    using Acc = typename Tile::Acc;
    simt::Shared shared = simt::block_shared();
    const FpropPoolMemory<Tile> all(shared);
    const GemmMemory<Tile>& memory = all.gemm;
    const PoolTiling& tiling = out.tiling;
    if (simt::thread() == 0) {
        PoolBlock block;
        int rest = simt::block().x;
        block.first_column = rest % in.column_tiles * Tile::columns;
        rest /= in.column_tiles;
        block.qq = rest % tiling.tiles_w * tiling.pooled_w;
        rest /= tiling.tiles_w;
        block.pp = rest % tiling.tiles_h * tiling.pooled_h;
        rest /= tiling.tiles_h;
        block.n = rest % in.conv.N, block.group = rest / in.conv.N;
        *all.block = block;
    }
    simt::sync();

    for (int pass = 0; pass < tiling.passes; ++pass) {
        describe_tile(in, out, *all.block, pass * Tile::rows, memory);
        Sums<Tile> sums;
        in.multiply(sums, memory);
        const PoolBlock block = *all.block;
        sums.store(memory.buffer,
                   [&](int column) { return in.template bias_of<Acc>(block.group, block.first_column + column); });
        simt::sync();
        pool_tile<T, Tile>(in.conv, out, block, pass, memory.buffer, all.winners);
        simt::sync();
    }
}

}  // namespace fastconv::cuda
