// fprop of convolutions with few channels. The product is conv2d_few_channels.cuh's. The output is written as in
// conv2d_fprop.cuh or conv2d_fprop_pool.cuh. A block's rectangles are consecutive.
#pragma once

#include "conv2d_few_channels.cuh"
#include "conv2d_fprop_pool.cuh"

namespace fastconv::cuda {

template <class Tile>
struct FewChannelsFpropMemory {
    GemmMemory<Tile> gemm;  // the halo, then the sums
    FewChannelsMemory<Tile> product;
    FASTCONV_HOST_DEVICE FewChannelsFpropMemory(simt::Shared& shared, int steps)
        : gemm(shared), product(shared, steps) {}
};

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::blocks)
conv2d_few_channels_fprop_kernel(const FpropInput<T> in, const FpropOutput<T> out, const FewChannelsLayout layout) {
    simt::Shared shared = simt::block_shared();
    const FewChannelsFpropMemory<Tile> memory(shared, layout.steps);
    float* const buffer = memory.gemm.buffer;
    const int first_column = simt::block().x % in.column_tiles * Tile::columns;
    const FewChannelsProduct<T, Tile> product(in, layout, memory.product, buffer, first_column);
    each_rectangle(layout, simt::block().x / in.column_tiles, [&](const Rectangle& at) {
        Sums<Tile> sums;
        product.multiply(sums, in, layout, at, buffer);
        sums.store(buffer, [&](int column) { return in.template bias_of<float>(0, first_column + column); });
        write_fprop(in, out, memory.gemm, 0, first_column, [&](int row) {
            int column = row;
            const int below = layout.width.split(column);
            return Pixel{below < layout.tiling.height ? at.n : in.conv.N, at.p + below, at.q + column};
        });
        simt::sync();
    });
}

template <class Tile>
struct FewChannelsFpropPoolMemory {
    float* sums;  // the halo, then the sums
    FewChannelsMemory<Tile> product;
    FASTCONV_HOST_DEVICE FewChannelsFpropPoolMemory(simt::Shared& shared, int steps)
        : sums(shared.take<float>(Tile::buffer)), product(shared, steps) {}
};

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::blocks)
conv2d_few_channels_fprop_pool_kernel(const FpropInput<T> in, const FpropPoolOutput<T> out,
                                      const FewChannelsLayout layout) {
    simt::Shared shared = simt::block_shared();
    const FewChannelsFpropPoolMemory<Tile> memory(shared, layout.steps);
    const int first_column = simt::block().x % in.column_tiles * Tile::columns;
    const FewChannelsProduct<T, Tile> product(in, layout, memory.product, memory.sums, first_column);
    each_rectangle(layout, simt::block().x / in.column_tiles, [&](const Rectangle& at) {
        Sums<Tile> sums;
        product.multiply(sums, in, layout, at, memory.sums);
        sums.store(memory.sums, [&](int column) { return in.template bias_of<float>(0, first_column + column); });
        simt::sync();
        pool_tile<T, Tile>(in.conv, out, {at.n, 0, first_column, at.pp, at.qq}, 0, memory.sums, nullptr);
        simt::sync();
    });
}

}  // namespace fastconv::cuda
