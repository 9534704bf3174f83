// conv2d_fprop.cuh's outputs for first layers: the product of conv2d_first.cuh. A block's rectangles follow each other.
#pragma once

#include "conv2d_first.cuh"

namespace fastconv::cuda {

template <class Tile>
struct FirstFpropMemory {
    GemmMemory<Tile> gemm;  // the sums, before them the halo
    FirstMemory<Tile> product;
    FASTCONV_HOST_DEVICE FirstFpropMemory(simt::Shared& shared, int steps) : gemm(shared), product(shared, steps) {}
};

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::blocks)
conv2d_first_fprop_kernel(const FpropInput<T> in, const FpropOutput<T> out, const FirstLayout layout) {
    simt::Shared shared = simt::block_shared();
    const FirstFpropMemory<Tile> memory(shared, layout.steps);
    const int first_column = simt::block().x % in.column_tiles * Tile::columns;
    const int first = simt::block().x / in.column_tiles * layout.turns;
    const int last = least(first + layout.turns, layout.rectangles);
    const FirstProduct<T, Tile> product(in, layout, memory.product, reinterpret_cast<int*>(memory.gemm.buffer),
                                        first_column);
    for (int i = first; i < last; ++i) {
        const Rectangle at = rectangle(layout, i);
        Sums<Tile> sums;
        product.multiply(sums, in, layout, at, reinterpret_cast<T*>(memory.gemm.buffer));
        sums.store(memory.gemm.buffer,
                   [&](int column) { return in.template bias_of<float>(0, first_column + column); });
        write_fprop(in, out, memory.gemm, 0, first_column, [&](int row) {
            int column = row;
            const int below = layout.width.split(column);
            return Pixel{below < layout.tiling.height ? at.n : in.conv.N, at.p + below, at.q + column};
        });
        simt::sync();
    }
}

}  // namespace fastconv::cuda
