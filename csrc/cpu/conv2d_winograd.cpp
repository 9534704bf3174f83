// Convolution of stride 1 by Winograd's algorithm (conv2d_winograd.h), with bias and epilogue. It is fprop for 3x3 and
// 5x5 kernels, and dgrad, which is a convolution of the output's gradient.
//
// It has three steps:
//   1. Transform the filters, in blocks of up to 2 vectors of output channels, to [block][position][C][block_size].
//   2. Pack rows of x as NHWC and transform all tiles, by vectors of channels, to [position][tile][C].
//   3. Multiply, for each block and position, [tile][C] x [C][block] (micro_kernel.h). Then, for each tile, transform
//      the products to outputs and run the epilogue.
//
// With more tiles than filters, and if the transformed filters stay in cache, step 1 comes first. A work item then has
// steps 2 and 3 for the tiles of a few rows of an image, or of a few small images, as many as L2 holds. Otherwise all
// items share the tiles, as many at a time as L3 holds, and an item has steps 1 and 3 for one block.
#include "conv2d_winograd.h"
#include "conv2d_epilogue.h"
#include "dgrad_as_fprop.h"
#include "gradient_rows.h"
#include "isa_kernels.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t tiles_bytes = 512 << 10, products_bytes = 512 << 10;  // transformed, per item
constexpr int64_t shared_bytes = 8 << 20;                               // of the tiles that all items share
constexpr int64_t filters_bytes = 4 << 20;                              // of transformed filters that stay in cache
constexpr int64_t least_tiles = 48;   // at a time, if there are as many: they share the loads of filters
constexpr int64_t few_tiles = 6;      // enough to fill the registers
constexpr int64_t fewest_tiles = 24;  // of an item when items are made smaller to get enough of them
constexpr int64_t least_items = 8;
constexpr int64_t channels_at_once =
    32;  // per sum: a product loses digits in proportion to the sum that it is added to

// The convolution's input: x or, for the gradient of a problem's output, dy and code.
struct Image {
    Tensor x, code;
    const Conv2dProblem* gradient_of;

    // Packs rows h0 to h0 + rows and columns w0 to w0 + width of image n as [rows][width][pixel], with zeros outside.
    // pooled: see gradient_rows.
    void pack(int64_t n, int64_t h0, int64_t rows, int64_t w0, int64_t width, int64_t pixel, T* out, T* pooled) const {
        if (!gradient_of) return pack_rows(x, n, h0, rows, w0, width, pixel, out);
        gradient_rows(*gradient_of, x, code, n, {h0, h0 + rows}, {0, x.size[1], w0, width, pixel}, out, pooled);
    }
};

template <class A>
struct Plan {
    int64_t blocks;
    int64_t pitch;                // elements per pixel, and per position of a tile: C rounded up to whole vectors
    int64_t tile_columns, width;  // of an image, of its packed rows
    int64_t rows, tile_rows;      // rows: (pooled) rows of a unit; tile_rows: of tiles, at most
    int64_t chunks, units;        // units of an image, of all images
    int64_t units_at_once;        // of an item, or of the tiles that all items share
    int64_t block_shares, blocks_at_once;
    bool shared_tiles;

    explicit Plan(const Conv2dProblem& problem) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        blocks = ceil_div(conv.K, block_size), pitch = round_up(conv.C, W);
        tile_columns = ceil_div(conv.Q, A::outputs), width = tile_columns * A::outputs + A::taps - 1;
        const int64_t tile_bytes = A::positions * pitch * int64_t(sizeof(T));
        const int64_t all_tiles_bytes = conv.N * ceil_div(conv.P, A::outputs) * tile_columns * tile_bytes;
        const int64_t all_filters_bytes = blocks * weights_size(conv) * int64_t(sizeof(T));
        shared_tiles = all_filters_bytes > min(filters_bytes, all_tiles_bytes);
        const int64_t most_tiles = max(least_tiles, (shared_tiles ? shared_bytes : tiles_bytes) / tile_bytes);
        const int64_t reach = (pool.window_h - 1) * pool.dilation_h;
        const int64_t all_rows = ceil_div(conv.P, A::outputs);
        const int64_t least_rows = min(all_rows, ceil_div(reach + 1, A::outputs));  // rows for one pooled row
        tile_rows = shared_tiles ? least_rows : max(least_rows, min(all_rows, most_tiles / tile_columns));
        for (;; --tile_rows) {
            rows = tile_rows == all_rows ? pool.P : (tile_rows * A::outputs - reach - 1) / pool.stride_h + 1;
            chunks = ceil_div(pool.P, rows), rows = ceil_div(pool.P, chunks);
            if (conv.N * chunks >= least_items || tile_rows == least_rows) break;
            if ((tile_rows - 1) * tile_columns < fewest_tiles) break;
        }
        tile_rows = ceil_div(min(conv.P, (rows - 1) * pool.stride_h + reach + 1), A::outputs);
        units = conv.N * chunks;
        units_at_once = max(1, min(units, most_tiles / (tile_rows * tile_columns)));
        units_at_once = ceil_div(units, ceil_div(units, units_at_once));
        block_shares = shared_tiles ? blocks : min(blocks, ceil_div(least_items, ceil_div(units, units_at_once)));
        const int64_t product_bytes = products_size(tiles()) * int64_t(sizeof(T));
        blocks_at_once = max(1, min(ceil_div(blocks, block_shares), products_bytes / product_bytes));
    }
    int64_t weights_size(const Conv2d& conv) const { return A::positions * position_step(conv.C * block_size); }
    int64_t products_size(int64_t tiles) const { return A::positions * position_step(tiles * block_size); }
    int64_t tiles() const { return units_at_once * tile_rows * tile_columns; }
    int vectors(const Conv2d& conv, int64_t block) const { return conv.K - block * block_size > W ? 2 : 1; }
};

template <class A>
struct Workspace {
    T* bias;  // [block][block_size]
    // Shared, or of thread 0 (filters of one block, tiles of an item):
    T* weights;  // [block][position][C][block_size]
    T* tiles;    // [position][tile][pitch]
    // Of thread 0:
    T *input, *pooled;   // rows of a unit: [row][width][pitch]; see Image
    T *products, *conv;  // [block][position][tile][block_size], rows of a unit: [row][Q][block_size]
    T* row;
    Pixel* pixels;  // of the tiles
    size_t per_thread, bytes;

    // gradient_of: see Image
    Workspace(const Conv2dProblem& problem, const Plan<A>& plan, const Conv2dProblem* gradient_of, void* start) {
        const Conv2d& shape = problem.conv;
        Carver carver(start);
        const int64_t tiles_size = A::positions * position_step(plan.tiles() * plan.pitch);
        bias = carver.take<T>(plan.blocks * block_size);
        if (plan.shared_tiles) tiles = carver.take<T>(tiles_size);
        else weights = carver.take<T>(plan.blocks * plan.weights_size(shape));
        const size_t shared = carver.used();
        if (plan.shared_tiles) weights = carver.take<T>(plan.weights_size(shape));
        else tiles = carver.take<T>(tiles_size);
        input = carver.take<T>((plan.tile_rows * A::outputs + A::taps - 1) * plan.width * plan.pitch);
        pooled = carver.take<T>(gradient_of ? gradient_of->pool.Q * plan.pitch : 0);
        products = carver.take<T>(plan.blocks_at_once * plan.products_size(plan.tiles()));
        conv = carver.take<T>(plan.tile_rows * A::outputs * shape.Q * block_size);
        row = carver.take<T>(problem.pool.Q * block_size);
        pixels = carver.take<Pixel>(plan.tiles());
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
    // The same with the thread's own parts.
    Workspace of(const Plan<A>& plan, int thread) const {
        Workspace mine = *this;
        const auto move = [&](auto*& array) { array = of_thread(array, thread, per_thread); };
        move(plan.shared_tiles ? mine.weights : mine.tiles);
        move(mine.input), move(mine.pooled), move(mine.products), move(mine.conv), move(mine.row), move(mine.pixels);
        return mine;
    }
};

// Transforms the filters of one block to [position][C][vectors * W].
template <class A>
void transform_filters(const Conv2d& conv, const Plan<A>& plan, const Tensor& w, int64_t block, T* out) {
    constexpr int64_t at_once = 16;
    const int vectors = plan.vectors(conv, block);
    for (int64_t v = 0; v < vectors; ++v) {
        const int64_t first_k = block * block_size + v * W, count = min(W, conv.K - first_k);
        for (int64_t first_c = 0; first_c < conv.C; first_c += at_once) {
            T filters[at_once * A::taps * A::taps * W] = {};
            const int64_t channels = min(at_once, conv.C - first_c);
            gather_filters(w, first_k, count, first_c, channels, filters);
            for (int64_t c = 0; c < channels; ++c) {
                const T* filter = filters + c * A::taps * A::taps * W;
                T* to = out + ((first_c + c) * vectors + v) * W;
                transform2d<A::taps, A::tile>(
                    FASTCONV_TRANSFORM(A::filter), [&](int i, int j) { return load(filter + (i * A::taps + j) * W); },
                    [&](int i, int j, Vec<T> value) {
                        store(to + (i * A::tile + j) * position_step(conv.C * block_size), value);
                    });
            }
        }
    }
}

// Transforms one tile of packed rows, `width` pixels each. Position i goes to out + i * step.
template <class A>
void transform_tile(const T* x, int64_t width, int64_t pitch, T* out, int64_t step) {
    for (int64_t c = 0; c < pitch; c += W)
        transform2d<A::tile, A::tile>(
            FASTCONV_TRANSFORM(A::input), [&](int i, int j) { return load(x + (i * width + j) * pitch + c); },
            [&](int i, int j, Vec<T> value) { store(out + (i * A::tile + j) * step + c, value); });
}

// Transforms the products of one tile, position i at in + i * step, to rows x columns outputs.
template <class A>
void finish_tile(const T* in, int64_t step, const T* bias, int vectors, int64_t rows, int64_t columns, T* out,
                 int64_t out_row) {
    for (int v = 0; v < vectors; ++v) {
        const Vec<T> b = load(bias + v * W);
        transform2d<A::tile, A::outputs>(
            FASTCONV_TRANSFORM(A::output), [&](int i, int j) { return load(in + (i * A::tile + j) * step + v * W); },
            [&](int i, int j, Vec<T> value) {
                if (i < rows && j < columns) store(out + i * out_row + (j * vectors + v) * W, value + b);
            });
    }
}

// Multiplies all tiles by the filters of blocks first to last, position by position.
template <class A>
void multiply(const Conv2d& conv, const Plan<A>& plan, const Workspace<A>& space, int64_t count, int64_t first,
              int64_t last) {
    const T zeros[block_size] = {};
    PixelGroups groups[2];
    split_evenly(0, count, groups);
    for (int64_t position = 0; position < A::positions; ++position)
        for (int64_t block = first; block < last; ++block) {
            const int vectors = plan.vectors(conv, block);
            const T* x = space.tiles + position * position_step(count * plan.pitch);
            const T* w = space.weights + (plan.shared_tiles ? 0 : block * plan.weights_size(conv)) +
                         position * position_step(conv.C * block_size);
            T* out = space.products + (block - first) * plan.products_size(count) +
                     position * position_step(count * block_size);
            for (int64_t c = 0; c < conv.C; c += channels_at_once) {
                const Part part = {int32_t(c), int32_t(min(channels_at_once, conv.C - c)), 0};
                for (const PixelGroups& some : groups)
                    (vectors == 1 ? run_groups<T, 1> : run_groups<T, 2>)(some, x, space.pixels, &part, &part + 1,
                                                                         w + c * vectors * W, c ? nullptr : zeros, out);
            }
        }
}

// A unit: some rows of an image.
struct Unit {
    int64_t n, first_row, last_row;  // of the epilogue's output
    Range needed;                    // of the convolution
    int64_t first_tile, tile_rows;
};

template <class A>
Unit unit_of(const Conv2dProblem& problem, const Plan<A>& plan, int64_t number, int64_t first_tile) {
    const int64_t n = number / plan.chunks, first_row = number % plan.chunks * plan.rows;
    const int64_t last_row = min(problem.pool.P, first_row + plan.rows);
    const Range needed = rows_needed(problem, first_row, last_row);
    return {n, first_row, last_row, needed, first_tile, ceil_div(needed.last - needed.first, A::outputs)};
}

template <class A>
void transform_unit(const Conv2d& conv, const Plan<A>& plan, const Image& image, const Workspace<A>& space,
                    const Unit& unit, int64_t count) {
    if (unit.tile_rows == 0) return;
    image.pack(unit.n, unit.needed.first - conv.pad_h, unit.tile_rows * A::outputs + A::taps - 1, -conv.pad_w,
               plan.width, plan.pitch, space.input, space.pooled);
    T* out = space.tiles + unit.first_tile * plan.pitch;
    for (int64_t row = 0; row < unit.tile_rows; ++row)
        for (int64_t column = 0; column < plan.tile_columns; ++column, out += plan.pitch)
            transform_tile<A>(space.input + (row * plan.width + column) * A::outputs * plan.pitch, plan.width,
                              plan.pitch, out, position_step(count * plan.pitch));
}

template <class A>
void finish_unit(const Conv2dProblem& problem, const Plan<A>& plan, const FpropArgs& args, const Workspace<A>& space,
                 const Unit& unit, int64_t count, int64_t block, const T* products) {
    const Conv2d& conv = problem.conv;
    const int vectors = plan.vectors(conv, block);
    const int64_t width = vectors * W, first_k = block * block_size;
    const T* in = products + unit.first_tile * width;
    for (int64_t row = 0; row < unit.tile_rows * A::outputs; row += A::outputs)
        for (int64_t column = 0; column < conv.Q; column += A::outputs, in += width)
            finish_tile<A>(in, position_step(count * block_size), space.bias + block * block_size, vectors,
                           unit.needed.last - unit.needed.first - row, conv.Q - column,
                           space.conv + (row * conv.Q + column) * width, conv.Q * width);
    run_epilogue(problem, args, unit.n, unit.first_row, unit.last_row, space.conv, problem.conv.Q, unit.needed.first,
                 vectors, first_k, min(width, conv.K - first_k), space.row);
}

// Calls body(unit) for the units from `first` on that are taken at a time. Returns the number of their tiles.
template <class A, class Body>
int64_t for_units(const Conv2dProblem& problem, const Plan<A>& plan, int64_t first, const Body& body) {
    int64_t tiles = 0;
    for (int64_t number = first; number < min(plan.units, first + plan.units_at_once); ++number) {
        const Unit unit = unit_of<A>(problem, plan, number, tiles);
        body(unit);
        tiles += unit.tile_rows * plan.tile_columns;
    }
    return tiles;
}

// Runs step 3 for one share of the blocks and `count` tiles of the units from `first_unit` on.
template <class A>
void compute_share(const Conv2dProblem& problem, const Plan<A>& plan, const FpropArgs& args, const Workspace<A>& space,
                   int64_t first_unit, int64_t count, int64_t share) {
    for (int64_t tile = 0; tile < count; ++tile) space.pixels[tile] = {int32_t(tile * plan.pitch), int32_t(tile * W)};
    const int64_t end = plan.blocks * (share + 1) / plan.block_shares;
    for (int64_t first = plan.blocks * share / plan.block_shares; first < end; first += plan.blocks_at_once) {
        const int64_t last = min(end, first + plan.blocks_at_once);
        multiply<A>(problem.conv, plan, space, count, first, last);
        for (int64_t block = first; block < last; ++block)
            for_units(problem, plan, first_unit, [&](const Unit& unit) {
                finish_unit<A>(problem, plan, args, space, unit, count, block,
                               space.products + (block - first) * plan.products_size(count));
            });
    }
}

template <class A>
void convolve(const Conv2dProblem& problem, const Image& image, const FpropArgs& args, void* start) {
    const Conv2d& conv = problem.conv;
    const Plan<A> plan(problem);
    const Workspace<A> shared(problem, plan, image.gradient_of, start);
    const auto count_tiles = [&](int64_t first_unit) {
        return for_units(problem, plan, first_unit, [](const Unit&) {});
    };
    for (int64_t k = 0; k < plan.blocks * block_size; ++k)
        shared.bias[k] = args.bias.data && k < conv.K ? value_at<T>(args.bias, k * args.bias.stride[0]) : T(0);
    if (plan.shared_tiles) {
        for (int64_t first = 0; first < plan.units; first += plan.units_at_once) {
            const int64_t count = count_tiles(first);
            parallel_for(problem.threads, min(plan.units_at_once, plan.units - first), [&](int64_t i, int thread) {
                int64_t tiles_before = 0;
                for (int64_t j = 0; j < i; ++j)
                    tiles_before += unit_of(problem, plan, first + j, 0).tile_rows * plan.tile_columns;
                transform_unit<A>(conv, plan, image, shared.of(plan, thread),
                                  unit_of(problem, plan, first + i, tiles_before), count);
            });
            parallel_for(problem.threads, plan.blocks, [&](int64_t block, int thread) {
                const Workspace<A> space = shared.of(plan, thread);
                transform_filters<A>(conv, plan, args.w, block, space.weights);
                compute_share<A>(problem, plan, args, space, first, count, block);
            });
        }
    } else {
        parallel_for(problem.threads, plan.blocks, [&](int64_t block, int) {
            transform_filters<A>(conv, plan, args.w, block, shared.weights + block * plan.weights_size(conv));
        });
        const int64_t items = ceil_div(plan.units, plan.units_at_once) * plan.block_shares;
        parallel_for(problem.threads, items, [&](int64_t item, int thread) {
            const Workspace<A> space = shared.of(plan, thread);
            const int64_t first = item / plan.block_shares * plan.units_at_once, count = count_tiles(first);
            for_units(problem, plan, first,
                      [&](const Unit& unit) { transform_unit<A>(conv, plan, image, space, unit, count); });
            compute_share<A>(problem, plan, args, space, first, count, item % plan.block_shares);
        });
    }
}

size_t workspace_bytes(const Conv2dProblem& problem, const Conv2dProblem* gradient_of) {
    return with_algorithm(problem.conv, [&](auto algorithm) {
        using A = decltype(algorithm);
        return Workspace<A>(problem, Plan<A>(problem), gradient_of, nullptr).bytes;
    });
}

void run_algorithm(const Conv2dProblem& problem, const Image& image, const FpropArgs& args, void* space) {
    with_algorithm(problem.conv, [&](auto algorithm) { convolve<decltype(algorithm)>(problem, image, args, space); });
}

constexpr int64_t channels_per_filter = 8;

constexpr const char* fprop_condition =
    FASTCONV_WINOGRAD_CONDITION ", at most 8 channels a filter, outputs of many whole tiles";
constexpr const char* dgrad_condition =
    FASTCONV_WINOGRAD_CONDITION ", at most 8 filters a channel, inputs of many whole tiles";

// Takes problems whose tiles fill the registers and whose products get far fewer. Refuses those where most of each tile
// lies beyond the edges, and those with so few filters that transforming x takes longer than the products.
bool takes(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    return winograd_takes(problem.dtype, conv) && pool.P > 0 && pool.Q > 0 && pool.window_h * pool.dilation_h < 16 &&
           conv.C <= channels_per_filter * conv.K &&
           with_algorithm(
               conv,
               [&](auto algorithm) {
                   using A = decltype(algorithm);
                   const int64_t tiles = ceil_div(conv.P, A::outputs) * ceil_div(conv.Q, A::outputs);
                   return conv.N * tiles >= few_tiles &&
                          conv.R * conv.S * conv.P * conv.Q * 5 >= 12 * A::positions * tiles;
               });
}

size_t fprop_workspace(const Conv2dProblem& problem) { return workspace_bytes(problem, nullptr); }

void run_fprop(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    run_algorithm(problem, {args.x, {}, nullptr}, args, launch.workspace);
}

bool dgrad_takes(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    return conv.stride_h == 1 && conv.stride_w == 1 && conv.groups == 1 && takes(dgrad_as_fprop(problem));
}

size_t dgrad_workspace(const Conv2dProblem& problem) { return workspace_bytes(dgrad_as_fprop(problem), &problem); }

void run_dgrad(const Conv2dProblem& problem, const DgradArgs& args, const Launch& launch) {
    run_algorithm(dgrad_as_fprop(problem), {args.dy, args.code, &problem}, dgrad_as_fprop(problem, args),
                  launch.workspace);
}

}  // namespace

extern const Implementation<FpropArgs> winograd_fprop;
extern const Implementation<DgradArgs> winograd_dgrad;
const Implementation<FpropArgs> winograd_fprop = {"winograd", fprop_condition, takes, fprop_workspace,
                                                  nullptr,    run_fprop,       false};
const Implementation<DgradArgs> winograd_dgrad = {"winograd", dgrad_condition, dgrad_takes, dgrad_workspace,
                                                  nullptr,    run_dgrad,       false};

}  // namespace fastconv::cpu::FASTCONV_ISA
