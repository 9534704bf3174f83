// fprop: convolution with bias, and optionally ReLU.
//
//     y[n, k, p, q] = relu(bias[k] + sum over c, r, s of x[n, c, p * stride - pad + r * dilation, ...] * w[k, c, r, s])
//
// With ReLU it also writes one bit per output: bit q % 8 of byte [n, p, q / 8, k] is set if y > 0 or NaN. As a matrix
// product (conv2d_gemm.cuh):
//
//   rows     pixels (n, p, q) of y; with a mask, every image row is padded to whole bytes
//   columns  filters k of one group
//   steps    taps (c, r, s); (r, s, c) if x's channels lie together, else in the order of w
//
// A block computes a tile of one group. Blocks with the same pixels are neighbors in the grid. The ReLU mask is packed
// eight rows of one column to a byte, one thread per byte, so no two threads write the same byte.
#pragma once

#include "conv2d_mma.cuh"
#include "conv2d_views.cuh"

namespace fastconv::cuda {

// FpropInput holds the operands of all fprop kernels, with or without a pool.
template <class T>
struct FpropInput {
    Source<ImageView<T>, Access::lines | Access::step_vectors> x;
    Source<WeightView<T>, Access::steps | Access::step_vectors> w;
    const T* bias;  // may be null
    int64_t bias_stride;
    Geometry conv;
    Strides x_strides, w_strides;
    Taps taps;                         // of the exact product
    StepCounter x_counter, w_counter;  // of the tensor-core product
    int steps, column_tiles;

    FASTCONV_DEVICE bool is_output(const Pixel& i) const { return i.n < conv.N && i.p < conv.P && i.q < conv.Q; }
    FASTCONV_DEVICE Coord pixel(int group, int n, int p, int q) const {
        const int h = p * conv.stride_h - conv.pad_h, w = q * conv.stride_w - conv.pad_w;
        return {x_strides.at(n, group * conv.channels, h, w), h, w, 0, 0};
    }
    FASTCONV_DEVICE Coord filter(int group, int column) const {
        return column < conv.filters ? Coord{(group * conv.filters + column) * w_strides.n, 0, 0, 0, 0} : no_coord();
    }
    FASTCONV_DEVICE void tap(int step, Coord& x_coord, Coord& w_coord) const {
        const Tap t = taps.at(step);
        const int h = t.r * conv.dilation_h, w = t.s * conv.dilation_w;
        x_coord = {x_strides.at(0, t.c, h, w), h, w, 0, 0};
        w_coord = {w_strides.at(0, t.c, t.r, t.s), 0, 0, 0, 0};
    }
    template <class Tile>
    FASTCONV_DEVICE void multiply(Sums<Tile>& sums, const GemmMemory<Tile>& memory) const {
        if constexpr (Tile::tensor_cores) gemm(sums, memory, x, x_counter, w, w_counter, 0, steps);
        else
            gemm(sums, memory, x, w, 0, steps,
                 [&](int step, Coord& x_coord, Coord& w_coord) { tap(step, x_coord, w_coord); });
    }
    template <class Acc>
    FASTCONV_DEVICE Acc bias_of(int group, int column) const {
        return bias && column < conv.filters ? Acc(bias[(group * conv.filters + column) * bias_stride]) : Acc(0);
    }
};

template <class T>
struct FpropOutput {
    T* y;
    uint8_t* code;  // may be null
    Strides strides;
    bool relu, along_columns, vectors;
};

// Writes the tile whose sums are in shared memory. The caller needs no barrier after storing them. pixel_of(row) is a
// row's pixel, outside of y for padding rows. Eight rows from a multiple of 8 on are neighbors in an image row. The
// first one's q is a multiple of 8.
template <class T, class Tile, class PixelOf>
FASTCONV_DEVICE void write_fprop(const FpropInput<T>& in, const FpropOutput<T>& out, const GemmMemory<Tile>& memory,
                                 int group, int first_column, const PixelOf& pixel_of) {
    using Acc = typename Tile::Acc;
    for (int row = simt::thread(); row < Tile::rows; row += Tile::threads) {
        const Pixel i = pixel_of(row);
        memory.rows.put(row, in.is_output(i) ? Coord{out.strides.at(i.n, 0, i.p, i.q), 0, 0, 0, 0} : no_coord());
    }
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads) {
        const int column = first_column + i;
        memory.columns.put(i, column < in.conv.filters
                                  ? Coord{(group * in.conv.filters + column) * out.strides.c, 0, 0, 0, 0}
                                  : no_coord());
    }
    simt::sync();
    const bool relu = out.relu;
    write_tile(out.y, memory, out.along_columns, out.vectors, [relu](Acc sum) {
        const T value = T(sum);
        return relu && Acc(value) < Acc(0) ? T(Acc(0)) : value;
    });
    if (!out.code) return;
    for (int i = simt::thread(); i < Tile::rows / 8 * Tile::columns; i += Tile::threads) {
        const int column = i % Tile::columns, row = i / Tile::columns * 8;
        const Pixel first = pixel_of(row);
        if (first_column + column >= in.conv.filters || !in.is_output(first)) continue;
        int bits = 0;
        FASTCONV_UNROLL
        for (int bit = 0; bit < 8; ++bit) {
            const Acc value = Acc(T(memory.buffer[Tile::sum_place(row + bit, column)]));
            if (first.q + bit < in.conv.Q && !(value <= Acc(0))) bits |= 1 << bit;
        }
        const int64_t byte = (int64_t(first.n) * in.conv.P + first.p) * ((in.conv.Q + 7) / 8) + first.q / 8;
        out.code[byte * in.conv.K + group * in.conv.filters + first_column + column] = uint8_t(bits);
    }
}

// With a code, `pixels` pads every image row to whole bytes.
template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::blocks)
conv2d_fprop_kernel(const FpropInput<T> in, const FpropOutput<T> out, const Pixels pixels, const int row_tiles) {
    using Acc = typename Tile::Acc;
    simt::Shared shared = simt::block_shared();
    const GemmMemory<Tile> memory(shared);
    const int tile = simt::block().x / in.column_tiles, group = tile / row_tiles;
    const int first_column = simt::block().x % in.column_tiles * Tile::columns;
    const int first_row = tile % row_tiles * Tile::rows;

    const auto pixel_of = [&](int row) { return pixels.at(first_row + row); };
    for (int row = simt::thread(); row < Tile::rows; row += Tile::threads) {
        const Pixel i = pixel_of(row);
        memory.rows.put(row, in.is_output(i) ? in.pixel(group, i.n, i.p, i.q) : no_coord());
    }
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads)
        memory.columns.put(i, in.filter(group, first_column + i));
    Sums<Tile> sums;
    in.multiply(sums, memory);

    sums.store(memory.buffer, [&](int column) { return in.template bias_of<Acc>(group, first_column + column); });
    write_fprop(in, out, memory, group, first_column, pixel_of);
}

}  // namespace fastconv::cuda
