// fprop fused with ReLU and a 2x2 max-pool without overlap, on tensor cores. The pool runs in registers.
//
//     y, code[n, k, pp, qq] of conv_y[n, k, pp * pool_stride - pool_pad + i * pool_dilation, ...] over the positions
//                           2 * i + j of a window, as defined in conv2d_pool_output.cuh
//
// As a matrix product (conv2d_gemm.cuh):
//
//   rows     positions of the windows (n, pp, qq): of every 32 rows, row 8 * position + w belongs to window w
//   columns  filters k of one group, reordered among four threads' filters (Filters)
//   steps    taps, as in conv2d_fprop.cuh
//
//   a block   has Tile::rows / 4 windows and a tile of filters; nothing is computed twice
//   a warp    has a quarter as many windows as rows
//   a thread  gets the sums of rows lane / 4 and lane / 4 + 8 of every 16, so two products give it all positions of
//             window lane / 4. Bias, ReLU, maximum and code stay in its registers. It has two of every 8 columns, which
//             are neighboring filters; several products together give 16 bytes of y. It stores them directly: 4 lanes
//             write 64 bytes in NHWC, 8 lanes write 8 windows of a filter in NCHW
#pragma once

#include "conv2d_fprop.cuh"
#include "conv2d_pool_output.cuh"

namespace fastconv::cuda {

template <class T>
struct FpropPool2x2Output : PoolOutput<T> {
    Pixels pixels;  // of the pooled image
    int windows, window_tiles;

    // Whether a window's position is inside the convolution's output, and its pixel.
    FASTCONV_DEVICE bool inside(const Geometry& conv, const Pixel& window, int position, int& p, int& q) const {
        const PoolGeometry& pool = this->pool;
        p = window.p * pool.stride_h - pool.pad_h + position / 2 * pool.dilation_h;
        q = window.q * pool.stride_w - pool.pad_w + position % 2 * pool.dilation_w;
        return unsigned(p) < unsigned(conv.P) && unsigned(q) < unsigned(conv.Q);
    }
};

// Filters maps columns to filters: a thread has `each` neighboring filters, two from each of its products.
template <class Tile>
struct Filters {
    static constexpr int each = Tile::vector, products = each / 2, period = 4 * each;
    static_assert(Tile::warp_columns % period == 0);
    FASTCONV_DEVICE static int of_column(int column) {
        const int i = column % period;
        return column - i + i % 8 / 2 * each + i / 8 * 2 + i % 2;
    }
};

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::blocks)
conv2d_fprop_pool2x2_kernel(const FpropInput<T> in, const FpropPool2x2Output<T> out) {
    static_assert(Tile::warp_rows % 32 == 0);
    simt::Shared shared = simt::block_shared();
    const GemmMemory<Tile> memory(shared);
    const int tile = simt::block().x / in.column_tiles, group = tile / out.window_tiles;
    const int first_column = simt::block().x % in.column_tiles * Tile::columns;
    const int first_window = tile % out.window_tiles * (Tile::rows / 4);

    for (int row = simt::thread(); row < Tile::rows; row += Tile::threads) {
        const int window = first_window + row / 32 * 8 + row % 8;
        const Pixel i = out.pixels.at(window);
        int p, q;
        const bool inside = out.inside(in.conv, i, row / 8 % 4, p, q) && window < out.windows;
        memory.rows.put(row, inside ? in.pixel(group, i.n, p, q) : no_coord());
    }
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads)
        memory.columns.put(i, in.filter(group, first_column + Filters<Tile>::of_column(i)));
    Sums<Tile> sums;
    in.multiply(sums, memory);

    constexpr int each = Filters<Tile>::each, products = Filters<Tile>::products;
    const int first_k = first_column + Sums<Tile>::first_column() + simt::lane() % 4 * each;
    FASTCONV_UNROLL
    for (int m = 0; m < Sums<Tile>::high; m += 2) {
        const int window = first_window + (Sums<Tile>::first_row() + m * 16) / 4 + simt::lane() / 4;
        if (window >= out.windows) continue;
        const Pixel i = out.pixels.at(window);
        const auto place = out.place(group, i.n, i.p, i.q);
        bool inside[4];
        FASTCONV_UNROLL
        for (int position = 0; position < 4; ++position) {
            int p, q;
            inside[position] = out.inside(in.conv, i, position, p, q);
        }
        FASTCONV_UNROLL
        for (int n = 0; n < Sums<Tile>::wide; n += products) {
            const int k = first_k + n / products * Filters<Tile>::period;
            if (k >= in.conv.filters) continue;
            Winner<float> winners[each];
            FASTCONV_UNROLL
            for (int v = 0; v < each; ++v) {
                const float bias = in.template bias_of<float>(group, k + v);
                FASTCONV_UNROLL
                for (int position = 0; position < 4; ++position) {
                    const float sum = sums.value[m + position / 2][n + v / 2][position % 2 * 2 + v % 2];
                    if (inside[position]) winners[v].see(float(T(sum + bias)), position);
                }
            }
            out.write(place, k, winners);
        }
    }
}

}  // namespace fastconv::cuda
