// The launchers of wgrad behind 2x2 pools, on dense and on sparse tensor cores.
#include "conv2d_wgrad_pool2x2.cuh"

#include <limits>

#include "conv2d_implementations.h"
#include "conv2d_wgrad.h"

namespace fastconv::cuda {

namespace {

// Whether the windows are 2x2, lie side by side, and stay inside the convolution's output.
bool has_pool2x2(const Conv2dProblem& problem) {
    const Pool2d& pool = problem.pool;
    return problem.epilogue.pooled && pool.window_h == 2 && pool.window_w == 2 && pool.stride_h == 2 &&
           pool.stride_w == 2 && pool.pad_h == 0 && pool.pad_w == 0 && pool.dilation_h == 1 && pool.dilation_w == 1 &&
           2 * pool.P <= problem.conv.P && 2 * pool.Q <= problem.conv.Q;
}

// Calls run(a value of T, a value of the tile's type) for the tile that takes a problem, and returns its result.
template <bool sparse, class Run>
auto with_pool2x2_tile(const Conv2dProblem& problem, const Run& run) {
    const int filters = int(problem.conv.K / problem.conv.groups);
    const auto with = [&](auto type) {
        using Tiles = Pool2x2Tiles<decltype(type), sparse>;
        if (filters > 64) return run(type, typename Tiles::wide());
        if (filters > 32) return run(type, typename Tiles::middle());
        return run(type, typename Tiles::narrow());
    };
    if (problem.dtype == DType::float16) return with(simt::half());
    if (problem.dtype == DType::bfloat16) return with(simt::bfloat16());
    return with(float());
}

template <class Tile>
Split split_windows(const Conv2dProblem& problem) {
    const int64_t steps = 4 * problem.conv.N * problem.pool.P * problem.pool.Q;
    return split_of<typename Tile::Mma>({Geometry(problem.conv), Tile::columns, Tile::rows, steps});
}

template <class T, class Tile>
void launch_pool2x2(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    WgradPool2x2Parameters<T> d;
    d.conv = Geometry(problem.conv);
    const Geometry& conv = d.conv;
    const PoolGeometry pool(problem.pool);
    d.x = {static_cast<const T*>(args.x.data), conv.H, conv.W};
    d.dy = static_cast<const T*>(args.dy.data);
    d.code = static_cast<const uint8_t*>(args.code.data);
    d.code_step = conv.K / 2;
    d.partial = static_cast<float*>(launch.workspace);
    d.x_strides = Strides(args.x);
    d.right = {d.x_strides.w * conv.stride_w, 0, conv.stride_w, 0, 0};
    d.below = {d.x_strides.h * conv.stride_h, conv.stride_h, 0, 0, 0};
    d.counter = StepCounter({pool.Q, wrapped(Coord(), d.right, 2)}, {pool.P, wrapped(Coord(), d.below, 2)},
                            {conv.N, {d.x_strides.n, 0, 0, 0, 0}}, Tile::windows, Pool2x2Copies<Tile>::chunk_stride);
    const WgradRows columns(conv, problem.layouts, args);
    d.taps = columns.taps;
    d.weight_columns = columns.weights, d.columns = columns.all;
    const Split split = split_windows<Tile>(problem);
    d.windows = conv.N * pool.P * pool.Q;
    d.windows_per_split = split.steps_per_split / 4;
    d.row_tiles = ceil_div(conv.filters, Tile::rows);
    d.column_tiles = ceil_div(d.columns, Tile::columns);
    const int64_t tiles = int64_t(d.row_tiles) * d.column_tiles * conv.groups;
    check(refuse_wgrad(conv, columns, tiles, split.splits));
    check(simt::launch(conv2d_wgrad_pool2x2_kernel<T, Tile>, {int(tiles * split.splits)}, Tile::threads,
                       shared_bytes<WgradPool2x2Memory<Tile>>(), launch.stream, d));
    conv2d_wgrad_sum(problem, args, launch, split.splits);
}

constexpr const char* condition =
    "float16, bfloat16 or TF32, channels_last tensors aligned to 16 bytes, groups of 16 filters or more, a multiple of 8, "
    "and 2x2 pools whose windows lie side by side inside the output";

bool takes(const Conv2dProblem& problem) {
    const int64_t filters = problem.conv.K / problem.conv.groups;
    const bool tensor_cores = problem.dtype == DType::float16 || problem.dtype == DType::bfloat16 ||
                              (problem.dtype == DType::float32 && problem.tf32);
    const Layouts& layouts = problem.layouts;
    return tensor_cores && has_pool2x2(problem) && filters > 8 && filters % 8 == 0 && layouts.x.vector_bytes == 16 &&
           layouts.y.vector_bytes == 16 && layouts.code.vector_bytes >= 4;
}

template <bool sparse>
size_t workspace(const Conv2dProblem& problem) {
    return with_pool2x2_tile<sparse>(problem, [&](auto, auto tile) {
        return wgrad_workspace(problem, split_windows<decltype(tile)>(problem).splits);
    });
}

template <bool sparse>
void run(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    if (!args.dw.data && !args.dbias.data) return;
    with_pool2x2_tile<sparse>(
        problem, [&](auto type, auto tile) { launch_pool2x2<decltype(type), decltype(tile)>(problem, args, launch); });
}

// An infinite cost. Sparse tensor cores run only if named, until a measurement shows where they are faster.
double by_name_alone(const Conv2dProblem&) { return std::numeric_limits<double>::infinity(); }

}  // namespace

const Implementation<WgradArgs> pool2x2_wgrad = {"windows", condition, takes, workspace<false>, nullptr, run<false>};
const Implementation<WgradArgs> sparse_pool2x2_wgrad = {"sparse_windows", condition,     takes,
                                                        workspace<true>,  by_name_alone, run<true>};

}  // namespace fastconv::cuda
