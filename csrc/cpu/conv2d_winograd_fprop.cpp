// conv2d forward for 5x5 kernels of stride 1 by Winograd's algorithm F(4x4, 5x5) (Lavin and Gray,
// arXiv 1509.09308): 64 multiplications for 16 outputs instead of 400, at the cost of some digits.
//
//   y = A^T [ (G w G^T) * (B^T x B) ] A     for each 8x8 tile of x, summed over channels inside the brackets
//
// with the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity. A work item is a few rows of one image's output:
//   1. pack its rows of x as NHWC and transform all 8x8 tiles, by vectors of channels, to [64][tile][C];
//   2. for each block of up to 2 vectors of output channels: 64 products [tile][C] x [C][block]
//      (micro_kernel.h), then per tile the transformation to 4x4 outputs, then the epilogue.
// The item is cut so that its transformed tiles stay in the second-level cache over all blocks.
#include "conv2d_epilogue.h"
#include "isa_kernels.h"
#include "micro_kernel.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

using T = float;
constexpr int W = lanes<T>;
constexpr int tile_in = 8, tile_out = 4, taps = 5, positions = tile_in * tile_in;
constexpr int block_size = max_vectors * W;
constexpr int64_t cache_bytes = 512 << 10;  // of an item's transformed tiles
constexpr int64_t least_items = 16;

struct Plan {
    int64_t blocks;
    int64_t pitch;                    // of a transformed tile: C up to whole vectors
    int64_t tile_columns, tile_rows;  // of an item; tile_rows at most
    int64_t width;                    // of the packed input
    int64_t rows, chunks;             // (pooled) output rows of an item, items of an image

    explicit Plan(const Conv2dProblem& problem) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        blocks = ceil_div(conv.K, block_size), pitch = round_up(conv.C, W);
        tile_columns = ceil_div(conv.Q, tile_out), width = tile_columns * tile_out + taps - 1;
        for (rows = pool.P;; rows = ceil_div(rows, 2)) {
            const int64_t needed = (rows - 1) * pool.stride_h + (pool.window_h - 1) * pool.dilation_h + 1;
            tile_rows = ceil_div(min(conv.P, needed), tile_out);
            chunks = ceil_div(pool.P, rows);
            if (rows == 1) break;
            const int64_t bytes = positions * tile_rows * tile_columns * pitch * int64_t(sizeof(T));
            if (bytes <= cache_bytes && conv.N * chunks >= least_items) break;
        }
    }
    int64_t tiles() const { return tile_rows * tile_columns; }
    int vectors(const Conv2d& conv, int64_t block) const { return conv.K - block * block_size > W ? 2 : 1; }
};

struct Workspace {
    T *weights, *bias;  // [block][position][C][block_size], [block][block_size]
    // Of thread 0:
    T *input, *tiles;    // [row][width][C], [position][tile][pitch]
    T *products, *conv;  // [position][tile][block_size], [row][Q][block_size]
    T* row;
    Pixel* pixels;  // the tiles
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Plan& plan, void* start) {
        const Conv2d& shape = problem.conv;
        Carver carver(start);
        weights = carver.take<T>(plan.blocks * positions * shape.C * block_size);
        bias = carver.take<T>(plan.blocks * block_size);
        const size_t shared = carver.used();
        // The last vector of the last pixel reads on.
        input = carver.take<T>((plan.tile_rows * tile_out + taps - 1) * plan.width * shape.C + W);
        tiles = carver.take<T>(positions * plan.tiles() * plan.pitch);
        products = carver.take<T>(positions * plan.tiles() * block_size);
        conv = carver.take<T>(plan.tile_rows * tile_out * shape.Q * block_size);
        row = carver.take<T>(problem.pool.Q * block_size);
        pixels = carver.take<Pixel>(plan.tiles());
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// Each of these takes one row or column, element i at in(i), and gives element i to out(i, value).

// 8 to 8: B^T.
template <class In, class Out>
inline void transform_input(const In& in, const Out& out) {
    const Vec<T> d0 = in(0), d1 = in(1), d2 = in(2), d3 = in(3), d4 = in(4), d5 = in(5), d6 = in(6), d7 = in(7);
    out(0, d0 - d6 + 5.25f * (d4 - d2));
    out(7, d7 - d1 + 5.25f * (d3 - d5));
    const Vec<T> even1 = d2 + d6 - 4.25f * d4, odd1 = d1 + d5 - 4.25f * d3;
    out(1, even1 + odd1);
    out(2, even1 - odd1);
    const Vec<T> even2 = d6 + 0.25f * d2 - 1.25f * d4, odd2 = 0.5f * d1 - 2.5f * d3 + 2.0f * d5;
    out(3, even2 + odd2);
    out(4, even2 - odd2);
    const Vec<T> even3 = d6 + 4.0f * d2 - 5.0f * d4, odd3 = 2.0f * d1 - 2.5f * d3 + 0.5f * d5;
    out(5, even3 + odd3);
    out(6, even3 - odd3);
}

// 5 to 8: G.
template <class In, class Out>
inline void transform_filter(const In& in, const Out& out) {
    const Vec<T> g0 = in(0), g1 = in(1), g2 = in(2), g3 = in(3), g4 = in(4);
    out(0, g0);
    out(7, g4);
    const Vec<T> even1 = g0 + g2 + g4, odd1 = g1 + g3;
    out(1, (-2.0f / 9) * (even1 + odd1));
    out(2, (-2.0f / 9) * (even1 - odd1));
    const Vec<T> even2 = g0 + 4.0f * g2 + 16.0f * g4, odd2 = 2.0f * g1 + 8.0f * g3;
    out(3, (1.0f / 90) * (even2 + odd2));
    out(4, (1.0f / 90) * (even2 - odd2));
    const Vec<T> even3 = g0 + 0.25f * g2 + 0.0625f * g4, odd3 = 0.5f * g1 + 0.125f * g3;
    out(5, (32.0f / 45) * (even3 + odd3));
    out(6, (32.0f / 45) * (even3 - odd3));
}

// 8 to 4: A^T.
template <class In, class Out>
inline void transform_output(const In& in, const Out& out) {
    const Vec<T> m1 = in(1), m2 = in(2), m3 = in(3), m4 = in(4), m5 = in(5), m6 = in(6);
    const Vec<T> sum1 = m1 + m2, sum2 = m3 + m4, sum3 = m5 + m6;
    const Vec<T> difference1 = m1 - m2, difference2 = m3 - m4, difference3 = m5 - m6;
    out(0, in(0) + sum1 + sum2 + sum3);
    out(1, difference1 + 2.0f * difference2 + 0.5f * difference3);
    out(2, sum1 + 4.0f * sum2 + 0.25f * sum3);
    out(3, in(7) + difference1 + 8.0f * difference2 + 0.125f * difference3);
}

// Filters of one block to [position][C][vectors * W], its biases behind each other.
void transform_block(const Conv2dProblem& problem, const Plan& plan, const FpropArgs& args, int64_t block, T* out,
                     T* bias) {
    const Conv2d& conv = problem.conv;
    const int vectors = plan.vectors(conv, block);
    for (int64_t v = 0; v < vectors; ++v, bias += W) {
        const int64_t first_k = block * block_size + v * W, count = min(W, conv.K - first_k);
        for (int64_t i = 0; i < W; ++i)
            bias[i] = args.bias.data && i < count ? value_at<T>(args.bias, (first_k + i) * args.bias.stride[0]) : T(0);
        for (int64_t c = 0; c < conv.C; ++c) {
            T filter[taps][taps][W] = {};
            with_elements<T>(args.w, [&](const auto* data) {
                for (int64_t i = 0; i < count; ++i) {
                    const auto* w = data + (first_k + i) * args.w.stride[0] + c * args.w.stride[1];
                    for (int64_t r = 0; r < taps; ++r)
                        for (int64_t s = 0; s < taps; ++s)
                            filter[r][s][i] = T(w[r * args.w.stride[2] + s * args.w.stride[3]]);
                }
            });
            Vec<T> half[tile_in][taps];
            for (int s = 0; s < taps; ++s)
                transform_filter([&](int r) { return load(filter[r][s]); },
                                 [&](int i, Vec<T> value) { half[i][s] = value; });
            for (int i = 0; i < tile_in; ++i)
                transform_filter([&](int s) { return half[i][s]; },
                                 [&](int j, Vec<T> value) {
                                     store(out + (((i * tile_in + j) * conv.C + c) * vectors + v) * W, value);
                                 });
        }
    }
}

// One tile of x for all channels: position i goes to out + i * step.
void transform_tile(const T* x, int64_t x_row, int64_t x_column, int64_t channels, T* out, int64_t step) {
    for (int64_t c = 0; c < channels; c += W) {
        Vec<T> half[tile_in][tile_in];
        for (int s = 0; s < tile_in; ++s)
            transform_input([&](int r) { return load(x + r * x_row + s * x_column + c); },
                            [&](int i, Vec<T> value) { half[i][s] = value; });
        for (int i = 0; i < tile_in; ++i)
            transform_input([&](int s) { return half[i][s]; },
                            [&](int j, Vec<T> value) { store(out + (i * tile_in + j) * step + c, value); });
    }
}

// The products of one tile, position i at in + i * step, to rows x columns outputs.
void finish_tile(const T* in, int64_t step, const T* bias, int vectors, int64_t rows, int64_t columns, T* out,
                 int64_t out_row) {
    for (int v = 0; v < vectors; ++v) {
        Vec<T> half[tile_out][tile_in];
        for (int s = 0; s < tile_in; ++s)
            transform_output([&](int r) { return load(in + (r * tile_in + s) * step + v * W); },
                             [&](int i, Vec<T> value) { half[i][s] = value; });
        const Vec<T> b = load(bias + v * W);
        for (int i = 0; i < rows; ++i)
            transform_output([&](int s) { return half[i][s]; },
                             [&](int j, Vec<T> value) {
                                 if (j < columns) store(out + i * out_row + (j * vectors + v) * W, value + b);
                             });
    }
}

template <int VECTORS>
void compute_block(const Conv2d& conv, const Plan& plan, const T* tiles, const Pixel* pixels, int64_t count,
                   const T* weights, T* products) {
    const Part channels = {0, int32_t(conv.C), 0};
    const T zeros[VECTORS * W] = {};
    PixelGroups groups[2];
    split_evenly(0, count, groups);
    for (int64_t position = 0; position < positions; ++position)
        for (const PixelGroups& some : groups)
            run_groups<T, VECTORS>(some, tiles + position * count * plan.pitch, pixels, &channels, &channels + 1,
                                   weights + position * conv.C * VECTORS * W, zeros,
                                   products + position * count * VECTORS * W);
}

void compute_item(const Conv2dProblem& problem, const Plan& plan, const FpropArgs& args, const Workspace& space,
                  int64_t item, int thread) {
    const Conv2d& conv = problem.conv;
    const auto mine = [&](auto* of_thread_0) { return of_thread(of_thread_0, thread, space.per_thread); };
    T *input = mine(space.input), *tiles = mine(space.tiles), *products = mine(space.products);
    T* buffer = mine(space.conv);
    Pixel* pixels = mine(space.pixels);

    const int64_t n = item / plan.chunks, first_row = item % plan.chunks * plan.rows;
    const int64_t last_row = min(problem.pool.P, first_row + plan.rows);
    const Range needed = rows_needed(problem, first_row, last_row);
    const int64_t conv_rows = needed.last - needed.first, tile_rows = ceil_div(conv_rows, tile_out);
    const int64_t count = tile_rows * plan.tile_columns;
    pack_rows(args.x, n, needed.first - conv.pad_h, tile_rows * tile_out + taps - 1, -conv.pad_w, plan.width, conv.C,
              input);
    for (int64_t tile = 0; tile < count; ++tile) {
        const int64_t row = tile / plan.tile_columns * tile_out, column = tile % plan.tile_columns * tile_out;
        transform_tile(input + (row * plan.width + column) * conv.C, plan.width * conv.C, conv.C, conv.C,
                       tiles + tile * plan.pitch, count * plan.pitch);
        pixels[tile] = {int32_t(tile * plan.pitch), int32_t(tile * W)};
    }
    for (int64_t block = 0; block < plan.blocks; ++block) {
        const int vectors = plan.vectors(conv, block);
        const int64_t width = vectors * W, first_k = block * block_size;
        (vectors == 1 ? compute_block<1> : compute_block<2>)(conv, plan, tiles, pixels, count,
                                                             space.weights + block * positions * conv.C * block_size,
                                                             products);
        for (int64_t tile = 0; tile < count; ++tile) {
            const int64_t row = tile / plan.tile_columns * tile_out, column = tile % plan.tile_columns * tile_out;
            finish_tile(products + tile * width, count * width, space.bias + block * block_size, vectors,
                        min(tile_out, conv_rows - row), min(tile_out, conv.Q - column),
                        buffer + (row * conv.Q + column) * width, conv.Q * width);
        }
        run_epilogue(problem, args, n, first_row, last_row, buffer, needed.first, vectors, first_k,
                     min(width, conv.K - first_k), mine(space.row));
    }
}

// Where tiles are mostly full and there are channels enough to fill vectors and to pay for the transformations.
bool applies(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    return !in_double(problem.dtype) && conv.R == taps && conv.S == taps && conv.groups == 1 && conv.stride_h == 1 &&
           conv.stride_w == 1 && conv.dilation_h == 1 && conv.dilation_w == 1 && conv.N > 0 && conv.C >= 16 &&
           conv.K >= 16 && conv.P >= 8 && conv.Q >= 8 && problem.pool.P > 0 && problem.pool.Q > 0 &&
           problem.pool.window_h * problem.pool.dilation_h < 16 && double(conv.Q + 8) * double(conv.C) < (1 << 20) &&
           double(conv.C) * double(conv.K) < (1 << 22);
}

size_t workspace(const Conv2dProblem& problem) { return Workspace(problem, Plan(problem), nullptr).bytes; }

void run(const Conv2dProblem& problem, const FpropArgs& args, void* start) {
    const Plan plan(problem);
    const Workspace space(problem, plan, start);
    parallel_for(problem.threads, plan.blocks, [&](int64_t block, int) {
        transform_block(problem, plan, args, block, space.weights + block * positions * problem.conv.C * block_size,
                        space.bias + block * block_size);
    });
    parallel_for(problem.threads, problem.conv.N * plan.chunks,
                 [&](int64_t item, int thread) { compute_item(problem, plan, args, space, item, thread); });
}

}  // namespace

extern const Implementation<FpropArgs> winograd_fprop;
const Implementation<FpropArgs> winograd_fprop = {"winograd", applies, workspace, run, false};

}  // namespace fastconv::cpu::FASTCONV_ISA
