#include "conv2d_wgrad_pool2x2.cuh"

#include "conv2d_wgrad.h"

namespace fastconv::cuda {

namespace {

// 2x2 windows side by side, none of which reaches beyond the convolution's output.
bool has_pool2x2(const Conv2dProblem& problem) {
    const Pool2d& pool = problem.pool;
    return problem.epilogue == Epilogue::relu_max_pool && pool.window_h == 2 && pool.window_w == 2 &&
           pool.stride_h == 2 && pool.stride_w == 2 && pool.pad_h == 0 && pool.pad_w == 0 && pool.dilation_h == 1 &&
           pool.dilation_w == 1 && 2 * pool.P <= problem.conv.P && 2 * pool.Q <= problem.conv.Q;
}

// Calls run(a value of T, of the tile) for the tile that takes a problem, and returns what that does.
template <class Run>
auto with_pool2x2_tile(const Conv2dProblem& problem, const Run& run) {
    const int filters = int(problem.conv.K / problem.conv.groups);
    const auto with = [&](auto type, auto tiles) {
        using Tiles = decltype(tiles);
        if (filters > 64) return run(type, typename Tiles::wide());
        if (filters > 32) return run(type, typename Tiles::middle());
        return run(type, typename Tiles::narrow());
    };
    const auto with_type = [&](auto type) {
        using T = decltype(type);
        if (problem.variant == sparse_pool2x2_variant) return with(type, Pool2x2Tiles<T, true>());
        return with(type, Pool2x2Tiles<T, false>());
    };
    if (problem.dtype == DType::float16) return with_type(simt::half());
    if (problem.dtype == DType::bfloat16) return with_type(simt::bfloat16());
    return with_type(float());
}

template <class Tile>
Split split_windows(const Conv2dProblem& problem) {
    const int64_t steps = 4 * problem.conv.N * problem.pool.P * problem.pool.Q;
    return split_of<typename Tile::Mma>({Geometry(problem.conv), Tile::columns, Tile::rows, steps});
}

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const WgradArgs& args, void* workspace, simt::Stream stream) {
    WgradPool2x2Parameters<T> d;
    d.conv = Geometry(problem.conv);
    const Geometry& conv = d.conv;
    const PoolGeometry pool(problem.pool);
    d.x = {static_cast<const T*>(args.x.data), conv.H, conv.W};
    d.dy = static_cast<const T*>(args.dy.data);
    d.code = static_cast<const uint8_t*>(args.code.data);
    d.code_step = conv.K / 2;
    d.partial = static_cast<float*>(workspace);
    d.x_strides = Strides(args.x);
    d.right = {d.x_strides.w * conv.stride_w, 0, conv.stride_w, 0, 0};
    d.below = {d.x_strides.h * conv.stride_h, conv.stride_h, 0, 0, 0};
    d.counter = StepCounter({pool.Q, wrapped(Coord(), d.right, 2)}, {pool.P, wrapped(Coord(), d.below, 2)},
                            {conv.N, {d.x_strides.n, 0, 0, 0, 0}}, Tile::windows, Pool2x2Copies<Tile>::chunk_stride);
    const WgradRows columns(conv, args);
    d.taps = columns.taps;
    d.weight_columns = columns.weights, d.columns = columns.all;
    const Split split = split_windows<Tile>(problem);
    d.windows = conv.N * pool.P * pool.Q;
    d.windows_per_split = split.steps_per_split / 4;
    d.row_tiles = ceil_div(conv.filters, Tile::rows);
    d.column_tiles = ceil_div(d.columns, Tile::columns);
    const int64_t tiles = int64_t(d.row_tiles) * d.column_tiles * conv.groups;
    const std::string refused = refuse_wgrad(conv, columns, tiles, split.splits);
    if (!refused.empty()) return refused;
    const std::string error = simt::launch(conv2d_wgrad_pool2x2_kernel<T, Tile>, {int(tiles * split.splits)},
                                           Tile::threads, shared_bytes<WgradPool2x2Memory<Tile>>(), stream, d);
    if (!error.empty()) return error;
    return conv2d_wgrad_sum(problem, args, workspace, split.splits, stream);
}

}  // namespace

int wgrad_pool2x2_splits(const Conv2dProblem& problem) {
    const int64_t filters = problem.conv.K / problem.conv.groups;
    const bool tensor_cores = problem.dtype == DType::float16 || problem.dtype == DType::bfloat16 ||
                              (problem.dtype == DType::float32 && problem.tf32);
    if (!tensor_cores || !has_pool2x2(problem) || filters <= 8 || filters % 8 || !refuse(problem).empty()) return 0;
    return with_pool2x2_tile(problem, [&](auto, auto tile) { return split_windows<decltype(tile)>(problem).splits; });
}

bool wgrad_pool2x2_takes(const Conv2dProblem& problem, const WgradArgs& args) {
    const int bytes = problem.dtype == DType::float32 ? 4 : 2;
    const int filters = int(problem.conv.K / problem.conv.groups), channels = int(problem.conv.C / problem.conv.groups);
    const bool may = !*problem.variant || names_pool2x2(problem);
    return may && wgrad_pool2x2_splits(problem) && channel_vectors(args.x, channels, 16 / bytes, bytes) &&
           channel_vectors(args.dy, filters, 16 / bytes, bytes) && reinterpret_cast<uintptr_t>(args.code.data) % 4 == 0;
}

std::string conv2d_wgrad_pool2x2(const Conv2dProblem& problem, const WgradArgs& args, void* workspace,
                                 simt::Stream stream) {
    return with_pool2x2_tile(problem, [&](auto type, auto tile) {
        return run<decltype(type), decltype(tile)>(problem, args, workspace, stream);
    });
}

}  // namespace fastconv::cuda
