// wgrad of convolutions with few channels on tensor cores:
//
//   rows     taps, in the order (s, c, r), and one with x = 1, for dbias
//   columns  filters
//   steps    pixels of the convolution's output
//
// As in conv2d_few_channels.cuh, a block loads the halo of a rectangle once and reads it for every tap. The rectangles
// of a block are its split of the reduction.
//
//   a block   loads a rectangle's halo, and its gradient as [pixel][filter], with ReLU and pool undone
//   a warp    owns warp_rows x warp_columns accumulators. Surplus warps split the pixels with the others, 8 or
//             16 neighbors at a time, and their accumulators are added up at the end
//   a thread  keeps its taps' places in registers and reads single elements of x, at the tap's place plus the pixel's
//
// A left fragment reads 8 consecutive taps in (c, r) and 4 or 8 neighboring pixels of each. Rows of x one dilation
// apart are therefore an odd multiple of 4 banks apart, and the taps of each s are padded to a multiple of eight.
// Padding taps read the plane behind the last channel. The first of them yields dbias; the others are ignored.
#pragma once

#include "conv2d_few_channels.cuh"
#include "conv2d_views.cuh"

namespace fastconv::cuda {

template <class T>
struct FewChannelsWgradTiles {
    static constexpr int steps = 64 / int(sizeof(T));
    using wide = MmaTile<T, 192, 64, steps, 1, 48, 32>;
    using narrow = MmaTile<T, 384, 32, steps, 1, 48, 32>;
};
constexpr int few_channels_wgrad_pixels = 128;  // of a rectangle, at most
constexpr int few_channels_wgrad_blocks = 2;    // per multiprocessor, at least

template <class T>
struct FewChannelsWgradParameters {
    ImageView<T> x;
    GradientView<T> gradient;
    float* partial;
    Geometry conv;
    Strides x_strides, dy_strides;
    FewChannelsLayout layout;
    Taps taps;             // of the partial sums, [split][k][row]
    Divider rows;          // rows of the partial sums, with the bias
    int weight_rows;       // without the bias
    int filled, bias_row;  // filled: rows of the product, with padding; bias_row: the bias's
    int row_tiles, column_tiles;
    bool along_filters, vectors;  // how the gradient is read
};

template <class T, class Tile>
struct FewChannelsWgradMemory {
    float* sums;  // the gradient and the halo, then the sums
    int* runs;    // places in the halo of every eighth pixel
    FASTCONV_HOST_DEVICE explicit FewChannelsWgradMemory(simt::Shared& shared)
        : sums(shared.take<float>(Tile::buffer)), runs(shared.take<int>(few_channels_wgrad_pixels / 8)) {}
    FASTCONV_DEVICE T* gradient() const { return reinterpret_cast<T*>(sums); }
    FASTCONV_DEVICE T* halo() const { return gradient() + few_channels_wgrad_pixels * Tile::columns; }
};

// Loads the gradient of a rectangle for the filters from first_column on.
template <class Tile, class T>
FASTCONV_DEVICE void load_gradient(const FewChannelsWgradParameters<T>& d, const Rectangle& at, int first_column,
                                   T* to) {
    constexpr int vector = Tile::vector, chunks = Tile::columns / vector, pixels = few_channels_wgrad_pixels;
    for (int e = simt::thread(); e < pixels * chunks; e += Tile::threads) {
        const int chunk = d.along_filters ? e % chunks : e / pixels, pixel = d.along_filters ? e / chunks : e % pixels;
        int column = pixel;
        const int row = d.layout.width.split(column), k = first_column + chunk * vector;
        const int p = row < d.layout.tiling.height ? at.p + row : outside, q = at.q + column;
        const Coord coord{d.dy_strides.at(at.n, k, p, q), p, q, at.n, k};
        auto values = zeros<vector, float>();
        if (d.vectors) {
            if (k < d.conv.K) values = d.gradient.template get<vector>(coord);
        } else {
            FASTCONV_UNROLL
            for (int v = 0; v < vector; ++v)
                if (k + v < d.conv.K)
                    values[v] = d.gradient.template get<1>(coord + Coord{v * d.dy_strides.c, 0, 0, 0, v})[0];
        }
        simt::Pack<T, vector> pack;
        FASTCONV_UNROLL
        for (int v = 0; v < vector; ++v) pack[v] = rounded(T(values[v]));
        simt::store(to + Tile::template place<true, Tile::columns>(pixel, chunk * vector), pack);
    }
}

// Returns 4 bytes of x: one pixel, or two neighbors.
FASTCONV_DEVICE uint32_t neighbors(const float* x) { return simt::float_bits(*x); }
template <class T>
FASTCONV_DEVICE uint32_t neighbors(const T* x) {
    return uint32_t(x[0].bits) | uint32_t(x[1].bits) << 16;
}

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, few_channels_wgrad_blocks)
conv2d_few_channels_wgrad_kernel(const FewChannelsWgradParameters<T> d) {
    using Product = Sums<Tile>;
    constexpr int parts = Tile::warps_along_columns, warps = Tile::threads / 32, lines = 2 * Product::high;
    constexpr int of_lane = 4 / int(sizeof(T));  // neighboring pixels
    simt::Shared shared = simt::block_shared();
    const FewChannelsWgradMemory<T, Tile> memory(shared);
    const Halo& halo = d.layout.halo;
    const int first_column = simt::block().x % d.column_tiles * Tile::columns;
    const int tile = simt::block().x / d.column_tiles;
    const int first_row = tile % d.row_tiles * Tile::rows, split = tile / d.row_tiles;

    // Warps are numbered by their part of the sums; warps of one part share the pixels.
    const int chunks = ceil_div(least(d.filled - first_row, Tile::rows), Tile::warp_rows) * parts;
    const int shares = warps / chunks, share = simt::warp() / chunks;
    const int of_sums = simt::warp() % chunks;
    const int row = of_sums / parts * Tile::warp_rows, column = of_sums % parts * Tile::warp_columns;

    if (simt::thread() < few_channels_wgrad_pixels / 8) {
        int w = simt::thread() * 8;
        const int h = d.layout.width.split(w);
        memory.runs[simt::thread()] = h < d.layout.tiling.height ? h * d.conv.stride_h * halo.pitch + w : 0;
    }
    int place[lines];
    FASTCONV_UNROLL
    for (int i = 0; i < lines; ++i) {
        int r = first_row + row + i * 8 + simt::lane() / 4;
        const int s = d.layout.taps_of_s.split(r), c = d.layout.taps_of_c.split(r);
        const bool there = s < d.conv.S && c < d.conv.channels;
        place[i] = (there ? c * halo.plane + r * d.conv.dilation_h * halo.pitch : d.conv.channels * halo.plane) +
                   halo.column(least(s, d.conv.S - 1) * d.conv.dilation_w) + simt::lane() % 4 * of_lane;
    }
    Product sums;
    sums.clear();
    each_rectangle(d.layout, split, [&](const Rectangle& at) {
        load_halo<Tile>(d.x, d.x_strides, d.conv, halo, at, T(1.0f), memory.halo());
        load_gradient<Tile>(d, at, first_column, memory.gradient());
        simt::sync();
        const int steps = share < shares ? few_channels_wgrad_pixels / (2 * Tile::vector) : 0;
        FASTCONV_NO_UNROLL
        for (int step = share; step < steps; step += shares) {
            // The places of a step's two halves: 4 + 4 pixels, or 8 + 8.
            const int low = memory.runs[step * of_lane];
            const int high = of_lane == 1 ? low + 4 : memory.runs[step * of_lane + 1];
            uint32_t a[Product::high][4], b[Product::wide / 2][4];
            FASTCONV_UNROLL
            for (int i = 0; i < lines; ++i) {
                const T* const x = memory.halo() + place[i];
                a[i / 2][i % 2] = neighbors(x + low);
                a[i / 2][i % 2 + 2] = neighbors(x + high);
            }
            FASTCONV_UNROLL
            for (int n = 0; n < Product::wide / 2; ++n)
                Product::template read<true, Tile::columns, false>(b[n], memory.gradient(), column + n * 16,
                                                                   step * 2 * Tile::vector);
            FASTCONV_UNROLL
            for (int n = 0; n < Product::wide; ++n) {
                FASTCONV_UNROLL
                for (int m = 0; m < Product::high; ++m)
                    Mma<T>::add(sums.value[m][n], a[m], {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]});
            }
        }
        simt::sync();
    });

    // [filter][row]: a warp stores 4 runs of 8 rows, which lie 8 banks apart.
    const auto place_of = [](int row, int filter) { return filter * (Tile::rows + 4) + row; };
    static_assert(Tile::rows % 16 == 0 && Tile::columns * (Tile::rows + 4) <= Tile::buffer);
    for (int i = 0; i < shares; ++i) {  // in a fixed order
        if (i == share) {
            FASTCONV_UNROLL
            for (int n = 0; n < Product::wide; ++n) {
                FASTCONV_UNROLL
                for (int l = 0; l < lines; ++l) {
                    FASTCONV_UNROLL
                    for (int v = 0; v < 2; ++v) {
                        float& to = memory.sums[place_of(row + l * 8 + simt::lane() / 4,
                                                         column + n * 8 + simt::lane() % 4 * 2 + v)];
                        to = sums.value[l / 2][n][l % 2 * 2 + v] + (i > 0 ? to : 0.0f);
                    }
                }
            }
        }
        simt::sync();
    }
    const int filters = least(d.conv.K - first_column, Tile::columns);
    float* const to = d.partial + (int64_t(split) * d.conv.K + first_column) * d.rows.divisor;
    for (int i = simt::thread(); i < filters * d.rows.divisor; i += Tile::threads) {
        int of_filter = i;
        const int k = d.rows.split(of_filter);
        int from = d.bias_row;
        if (of_filter < d.weight_rows) {
            const Tap t = d.taps.at(of_filter);
            from = t.s * d.layout.taps_of_s.divisor + t.c * d.conv.R + t.r;
        }
        if (unsigned(from - first_row) < unsigned(Tile::rows)) to[i] = memory.sums[place_of(from - first_row, k)];
    }
}

}  // namespace fastconv::cuda
