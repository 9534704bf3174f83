#include "conv2d_wgrad.cuh"

#include <algorithm>

#include "conv2d_wgrad.h"

namespace fastconv::cuda {

namespace {

template <class Tile>
WgradSize size_of(const Geometry& conv) {
    return {conv, Tile::rows, Tile::columns, int64_t(conv.N) * conv.P * conv.Q};
}

// Whether both operands can be read by vectors.
bool by_vectors(const Conv2dProblem& problem, const WgradArgs& args, int vector, int element_bytes) {
    const Conv2d& c = problem.conv;
    return channel_vectors(args.x, int(c.C / c.groups), vector, element_bytes) &&
           gradient_vectors(problem, args.dy, args.code, int(c.K / c.groups), vector, element_bytes);
}

template <class Tile>
Work work(const Conv2dProblem& problem, bool channels_inside) {
    const Geometry conv(problem.conv);
    const bool vectors = channels_inside && conv.channels % Tile::vector == 0 && conv.filters % Tile::vector == 0;
    const WgradSize size = size_of<Tile>(conv);
    return work_of<Tile>(size, split_of<Tile>(size), vectors);
}

template <class T, class Tile, int access>
std::string run(const Conv2dProblem& problem, const WgradArgs& args, void* workspace, simt::Stream stream) {
    using Acc = Accumulator<T>;
    constexpr int vector = Tile::vector;
    WgradParameters<T, access> d;
    d.conv = Geometry(problem.conv);
    const Geometry& conv = d.conv;
    d.x.view = {static_cast<const T*>(args.x.data), conv.H, conv.W};
    d.gradient.view = GradientView<T>(problem, args.dy, args.code);
    d.partial = static_cast<Acc*>(workspace);
    d.x_strides = Strides(args.x), d.dy_strides = Strides(args.dy);
    d.pixels = Pixels(conv.P, conv.Q);
    const WgradRows rows(conv, args);
    d.taps = rows.taps;
    d.weight_rows = rows.weights, d.rows = rows.all;
    d.steps = conv.N * conv.P * conv.Q;
    const Split split = split_of<Tile>(size_of<Tile>(conv));
    d.steps_per_split = split.steps_per_split;
    d.row_tiles = ceil_div(d.rows, Tile::rows);
    d.column_tiles = ceil_div(conv.filters, Tile::columns);
    const auto access_of = [](const Tensor& t, bool vectors) {
        if (vectors && (access & int(Access::line_vectors))) return Access::line_vectors;
        return channels_last(t) ? Access::lines : Access::steps;
    };
    d.x.access = access_of(args.x, channel_vectors(args.x, conv.channels, vector, sizeof(T)));
    d.gradient.access =
        access_of(args.dy, gradient_vectors(problem, args.dy, args.code, conv.filters, vector, sizeof(T)));

    if constexpr (Tile::tensor_cores) {
        const auto counter = [&](const Coord& one_n, const Coord& one_p, const Coord& one_q, int lines) {
            return StepCounter({conv.Q, one_q}, {conv.P, one_p}, {conv.N, one_n}, Tile::steps,
                               Tile::chunk_stride(lines));
        };
        const int h = conv.stride_h, w = conv.stride_w;
        d.x_counter = counter({d.x_strides.n, 0, 0, 0, 0}, {d.x_strides.h * h, h, 0, 0, 0},
                              {d.x_strides.w * w, 0, w, 0, 0}, Tile::rows);
        d.gradient_counter = counter({d.dy_strides.n, 0, 0, 1, 0}, {d.dy_strides.h, 1, 0, 0, 0},
                                     {d.dy_strides.w, 0, 1, 0, 0}, Tile::columns);
    }

    const int64_t tiles = int64_t(d.row_tiles) * d.column_tiles * conv.groups;
    const std::string refused = refuse_wgrad(conv, rows, tiles, split.splits);
    if (!refused.empty()) return refused;
    const std::string error = simt::launch(conv2d_wgrad_kernel<T, Tile, access>, {int(tiles * split.splits)},
                                           Tile::threads, shared_bytes<WgradMemory<Tile>>(), stream, d);
    if (!error.empty()) return error;
    return conv2d_wgrad_sum(problem, args, workspace, split.splits, stream);
}

// The problem for which a tile is chosen: windows that are named do not take tensors of all memory formats.
Conv2dProblem by_tile(Conv2dProblem problem) {
    if (wgrad_pool2x2_splits(problem) && names_pool2x2(problem)) problem.variant = "";
    return problem;
}

}  // namespace

std::vector<std::string> conv2d_wgrad_variants(const Conv2dProblem& problem) {
    auto names = tile_names(problem, [&](auto tile) { return work<decltype(tile)>(problem, true); });
    if (wgrad_pool2x2_splits(problem)) {
        names.insert(names.begin(), std::string(pool2x2_variant));
        names.emplace_back(sparse_pool2x2_variant);
    }
    if (few_channels_wgrad_splits(problem)) names.insert(names.begin(), std::string(few_channels_variant));
    return names;
}

size_t conv2d_wgrad_workspace(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    if (c.K == 0 || !refuse(problem).empty()) return 0;
    const Geometry conv(c);
    int splits = std::max(few_channels_wgrad_splits(problem), wgrad_pool2x2_splits(problem));
    with_type(problem.dtype, [&](auto type) {
        for (const bool channels_inside : {false, true}) {  // the memory formats are not known here
            with_tile<decltype(type)>(
                by_tile(problem), [&](auto tile) { return work<decltype(tile)>(problem, channels_inside); },
                [&](auto tile) {
                    splits = std::max(splits, split_of<decltype(tile)>(size_of<decltype(tile)>(conv)).splits);
                    return std::string();
                });
        }
        return std::string();
    });
    const size_t bytes = problem.dtype == DType::float64 ? sizeof(double) : sizeof(float);
    return size_t(splits) * size_t(conv.K) * (size_t(conv.channels) * size_t(conv.R) * size_t(conv.S) + 1) * bytes;
}

std::string conv2d_wgrad(const Conv2dProblem& problem, const WgradArgs& args, void* workspace, simt::Stream stream) {
    const std::string refused = refuse(problem);
    if (!refused.empty()) return refused;
    const Conv2d& conv = problem.conv;
    const bool weights = args.dw.data && conv.C * conv.R * conv.S > 0;
    if (conv.K == 0 || (!weights && !args.dbias.data)) return "";
    if ((!*problem.variant || problem.variant == few_channels_variant) && few_channels_wgrad_splits(problem))
        return conv2d_few_channels_wgrad(problem, args, workspace, stream);
    if (wgrad_pool2x2_takes(problem, args)) return conv2d_wgrad_pool2x2(problem, args, workspace, stream);
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        const bool vectors = by_vectors(problem, args, 16 / int(sizeof(T)), sizeof(T));
        const bool channels_inside = channels_last(args.x) && channels_last(args.dy);
        return with_tile<T>(
            by_tile(problem), [&](auto tile) { return work<decltype(tile)>(problem, channels_inside); },
            [&](auto tile) {
                using Tile = decltype(tile);
                constexpr int by_elements = Access::lines | Access::steps, any = by_elements | Access::line_vectors;
                if constexpr (Tile::tensor_cores) {
                    if (vectors) return run<T, Tile, int(Access::line_vectors)>(problem, args, workspace, stream);
                    return run<T, Tile, by_elements>(problem, args, workspace, stream);
                } else {
                    return run<T, Tile, any>(problem, args, workspace, stream);
                }
            });
    });
}

}  // namespace fastconv::cuda
