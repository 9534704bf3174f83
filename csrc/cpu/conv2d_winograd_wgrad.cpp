// wgrad for stride 1 by Winograd's algorithm (conv2d_winograd.h): the gradients of weight and bias, for dense gradients
// and for those behind ReLU and pool.
//
// Rows of tiles, of one image after another, are taken a few at a time, as many as L3 holds transformed:
//   1. A work item packs a row of tiles of x and of the output's gradient as NHWC. It transforms them to panels of up
//      to 2 vectors of channels: [block][position][tile][block_size].
//   2. A work item has a few blocks of C and one of K. For each pair and position it adds the product [C][tile] x
//      [tile][K] to those of earlier rows, [position][C][K] per pair. After the last rows it transforms the sum to its
//      part of dw. If all rows are taken at once, no products are kept.
//
// Every element of dw has one owner, which takes tiles in order.
#include "conv2d_winograd.h"
#include "gradient_rows.h"
#include "isa_kernels.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t pass_bytes = 6 << 20;      // of transformed tiles
constexpr int64_t least_tiles = 96;          // per pass, so that adding to the products costs little
constexpr int64_t tiles_at_once = 64;        // per sum: few digits are lost, and panels stay in L1
constexpr int64_t panels_bytes = 512 << 10;  // of an item's blocks of C: stays in L2

template <class A>
struct Plan {
    int64_t c_blocks, k_blocks;
    int64_t tile_rows, tile_columns;     // of an image
    int64_t rows_at_once, rows, passes;  // of tiles; rows: of all images
    int64_t c_blocks_at_once;            // per item

    explicit Plan(const Conv2d& conv) {
        c_blocks = ceil_div(conv.C, block_size), k_blocks = ceil_div(conv.K, block_size);
        tile_rows = ceil_div(conv.P, A::outputs), tile_columns = ceil_div(conv.Q, A::outputs);
        rows = conv.N * tile_rows;
        const int64_t tile_bytes = A::positions * (c_blocks + k_blocks) * block_size * int64_t(sizeof(T));
        rows_at_once = max(1, max(least_tiles, pass_bytes / tile_bytes) / tile_columns);
        passes = ceil_div(rows, rows_at_once), rows_at_once = ceil_div(rows, passes);
        c_blocks_at_once = max(1, min(c_blocks, panels_bytes / (panel_size() * int64_t(sizeof(T)))));
    }
    int64_t tiles() const { return rows_at_once * tile_columns; }
    int64_t panel_size() const { return A::positions * position_step(tiles() * block_size); }
    int64_t x_width() const { return tile_columns * A::outputs + A::taps - 1; }
    int64_t dy_width() const { return tile_columns * A::outputs; }
    static constexpr int64_t product_size = A::positions * block_size * block_size;
};

template <class A>
struct Workspace {
    T *x_panels, *dy_panels;
    T* products;              // of all pairs of blocks
    double *row_bias, *bias;  // [row of tiles][K], [K]
    // Of thread 0:
    T* own_products;  // of one pair
    T *x, *dy;        // rows of tiles before the transform: [row][column][C or K rounded up to whole vectors]
    T* pooled;        // see gradient_rows
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Plan<A>& plan, void* start) {
        const Conv2d& conv = problem.conv;
        Carver carver(start);
        x_panels = carver.take<T>(plan.c_blocks * plan.panel_size());
        dy_panels = carver.take<T>(plan.k_blocks * plan.panel_size());
        products = carver.take<T>(plan.passes > 1 ? plan.c_blocks * plan.k_blocks * plan.product_size : 0);
        row_bias = carver.take<double>(plan.rows_at_once * conv.K);
        bias = carver.take<double>(conv.K);
        const size_t shared = carver.used();
        own_products = carver.take<T>(plan.passes > 1 ? 0 : plan.product_size);
        x = carver.take<T>(A::tile * plan.x_width() * round_up(conv.C, W));
        dy = carver.take<T>(A::outputs * plan.dy_width() * round_up(conv.K, W));
        pooled = carver.take<T>(problem.pool.Q * round_up(conv.K, W));
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// Transforms a row of tiles, FROM rows of `width` pixels, to panels.
template <class A, int FROM, class Transform>
void transform_row(const Transform& transform, const T* in, int64_t width, int64_t pixel, int64_t tiles,
                   int64_t panel_size, int64_t step, T* panels) {
    for (int64_t tile = 0; tile < tiles; ++tile, in += A::outputs * pixel, panels += block_size)
        for (int64_t c = 0; c < pixel; c += W) {
            T* out = panels + c / block_size * panel_size + c % block_size;
            transform2d<FROM, A::tile>(
                transform, [&](int i, int j) { return load(in + (i * width + j) * pixel + c); },
                [&](int i, int j, Vec<T> value) { store(out + (i * A::tile + j) * step, value); });
        }
}

// Transforms row `row` of all, the `place`-th of its pass.
template <class A>
void prepare_row(const Conv2dProblem& problem, const Plan<A>& plan, const WgradArgs& args, const Workspace<A>& space,
                 int thread, int64_t row, int64_t place) {
    const Conv2d& conv = problem.conv;
    const auto mine = [&](auto* of_thread_0) { return of_thread(of_thread_0, thread, space.per_thread); };
    T *x = mine(space.x), *dy = mine(space.dy);
    const int64_t n = row / plan.tile_rows, p = row % plan.tile_rows * A::outputs;
    const int64_t x_pixel = round_up(conv.C, W), dy_pixel = round_up(conv.K, W);

    gradient_rows(problem, args.dy, args.code, n, {p, p + A::outputs}, {0, conv.K, 0, plan.dy_width(), dy_pixel}, dy,
                  mine(space.pooled));
    double* bias = space.row_bias + place * conv.K;
    for (int64_t k = 0; k < conv.K; ++k) bias[k] = 0;
    for (int64_t pixel = 0; pixel < A::outputs * plan.dy_width(); ++pixel)
        for (int64_t k = 0; k < conv.K; ++k) bias[k] += double(dy[pixel * dy_pixel + k]);
    if (!args.dw.data) return;

    const int64_t first = place * plan.tile_columns * block_size, step = position_step(plan.tiles() * block_size);
    transform_row<A, A::outputs>(FASTCONV_TRANSFORM(A::output_gradient), dy, plan.dy_width(), dy_pixel,
                                 plan.tile_columns, plan.panel_size(), step, space.dy_panels + first);
    pack_rows(args.x, n, p - conv.pad_h, A::tile, -conv.pad_w, plan.x_width(), x_pixel, x);
    transform_row<A, A::tile>(FASTCONV_TRANSFORM(A::input), x, plan.x_width(), x_pixel, plan.tile_columns,
                              plan.panel_size(), step, space.x_panels + first);
}

// out[i][v] += sum over t of a[t][i] * b[t][v], for ROWS x VECTORS vectors; the first sum is written, not added. Rows
// of a and b have block_size elements.
template <int ROWS, int VECTORS>
void multiply(const T* a, const T* b, int64_t count, bool first, T* out) {
    Vec<T> acc[ROWS][VECTORS] = {};
    for (int64_t t = 0; t < count; ++t, a += block_size, b += block_size) {
        Vec<T> right[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) right[v] = load(b + v * W);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Vec<T> left = splat(a[i]);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) acc[i][v] += left * right[v];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) {
            T* at = out + i * block_size + v * W;
            store(at, first ? acc[i][v] : load(at) + acc[i][v]);
        }
}

template <int VECTORS, int ROWS = max_pixels>
auto multiply_for(int64_t rows) {
    if constexpr (ROWS > 1)
        if (rows < ROWS) return multiply_for<VECTORS, ROWS - 1>(rows);
    return multiply<ROWS, VECTORS>;
}

// Adds the products of a block of C and one of K over `count` tiles.
template <class A>
void multiply_blocks(const Conv2d& conv, const Plan<A>& plan, const Workspace<A>& space, int64_t c_block,
                     int64_t k_block, int64_t count, bool first_pass, T* products) {
    PixelGroups groups[2];
    split_evenly(0, min(block_size, conv.C - c_block * block_size), groups);
    const bool narrow = conv.K - k_block * block_size <= W;
    for (int64_t position = 0; position < A::positions; ++position, products += block_size * block_size) {
        const int64_t offset = position * position_step(plan.tiles() * block_size);
        const T* a = space.x_panels + c_block * plan.panel_size() + offset;
        const T* b = space.dy_panels + k_block * plan.panel_size() + offset;
        for (int64_t t = 0; t < count; t += tiles_at_once)
            for (const PixelGroups& rows : groups) {
                if (rows.count == 0) continue;
                const auto kernel = narrow ? multiply_for<1>(rows.size) : multiply_for<2>(rows.size);
                for (int64_t i = rows.first; i < rows.first + rows.count * rows.size; i += rows.size)
                    kernel(a + t * block_size + i, b + t * block_size, min(tiles_at_once, count - t),
                           first_pass && t == 0, products + i * block_size);
            }
    }
}

// Transforms the products of a block of C and one of K to dw.
template <class A>
void write_blocks(const Conv2d& conv, const T* products, int64_t c_block, int64_t k_block, const Tensor& dw) {
    const int64_t first_c = c_block * block_size, channels = min(block_size, conv.C - first_c);
    for (int64_t v = 0; v < max_vectors && k_block * block_size + v * W < conv.K; ++v) {
        T filters[block_size * A::taps * A::taps * W];
        for (int64_t c = 0; c < channels; ++c)
            transform2d<A::tile, A::taps>(
                FASTCONV_TRANSFORM(A::filter_gradient),
                [&](int i, int j) {
                    return load(products + ((i * A::tile + j) * block_size + c) * block_size + v * W);
                },
                [&](int i, int j, Vec<T> value) { store(filters + ((c * A::taps + i) * A::taps + j) * W, value); });
        const int64_t first_k = k_block * block_size + v * W;
        scatter_filters(filters, dw, first_k, min(W, conv.K - first_k), first_c, channels);
    }
}

template <class A>
void run_algorithm(const Conv2dProblem& problem, const WgradArgs& args, void* start) {
    const Conv2d& conv = problem.conv;
    const Plan<A> plan(conv);
    const Workspace<A> space(problem, plan, start);
    for (int64_t k = 0; k < conv.K; ++k) space.bias[k] = 0;
    for (int64_t first = 0; first < plan.rows; first += plan.rows_at_once) {
        const int64_t rows = min(plan.rows_at_once, plan.rows - first), count = rows * plan.tile_columns;
        parallel_for(problem.threads, rows, [&](int64_t place, int thread) {
            prepare_row<A>(problem, plan, args, space, thread, first + place, place);
        });
        for (int64_t i = 0; i < rows * conv.K; ++i) space.bias[i % conv.K] += space.row_bias[i];
        const int64_t ranges = args.dw.data ? ceil_div(plan.c_blocks, plan.c_blocks_at_once) : 0;
        parallel_for(problem.threads, ranges * plan.k_blocks, [&](int64_t item, int thread) {
            const int64_t first_c = item / plan.k_blocks * plan.c_blocks_at_once, k_block = item % plan.k_blocks;
            for (int64_t c_block = first_c; c_block < min(plan.c_blocks, first_c + plan.c_blocks_at_once); ++c_block) {
                T* products = plan.passes > 1 ? space.products + (c_block * plan.k_blocks + k_block) * plan.product_size
                                              : of_thread(space.own_products, thread, space.per_thread);
                multiply_blocks<A>(conv, plan, space, c_block, k_block, count, first == 0, products);
                if (first + rows == plan.rows) write_blocks<A>(conv, products, c_block, k_block, args.dw);
            }
        });
    }
    if (args.dbias.data)
        for (int64_t k = 0; k < conv.K; ++k) set_value<T>(args.dbias, k * args.dbias.stride[0], T(space.bias[k]));
}

bool takes(const Conv2dProblem& problem) {
    return winograd_takes(problem.dtype, problem.conv) && problem.pool.P > 0 && problem.pool.Q > 0;
}

size_t workspace(const Conv2dProblem& problem) {
    return with_algorithm(problem.conv, [&](auto algorithm) {
        using A = decltype(algorithm);
        return Workspace<A>(problem, Plan<A>(problem.conv), nullptr).bytes;
    });
}

void run(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    with_algorithm(problem.conv,
                   [&](auto algorithm) { run_algorithm<decltype(algorithm)>(problem, args, launch.workspace); });
}

}  // namespace

extern const Implementation<WgradArgs> winograd_wgrad;
const Implementation<WgradArgs> winograd_wgrad = {
    "winograd", FASTCONV_WINOGRAD_CONDITION ", outputs of 6x6 or more", takes, workspace, nullptr, run, false};

}  // namespace fastconv::cpu::FASTCONV_ISA
