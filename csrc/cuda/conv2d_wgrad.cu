#include "conv2d_wgrad.cuh"

#include "conv2d_launch.h"

namespace fastconv::cuda {

namespace {

// How the sums are cut, by the problem alone: rows include the bias, wanted or not.
struct Split {
    int splits, steps_per_split;
};

template <class Tile>
Split split_of(const Geometry& conv) {
    // As many as run at once on an H100's 132 multiprocessors; more would only write and read more partial sums.
    constexpr int64_t wanted_blocks = 132 * Tile::fewer_blocks, least_steps = 128;
    const int64_t steps = int64_t(conv.N) * conv.P * conv.Q;
    const int64_t rows = int64_t(conv.channels) * conv.R * conv.S + 1;
    const int64_t blocks = (rows + Tile::rows - 1) / Tile::rows * ceil_div(conv.filters, Tile::columns) * conv.groups;
    int64_t splits = (wanted_blocks + blocks - 1) / blocks;
    if (splits > steps / least_steps) splits = steps / least_steps;
    if (splits < 2) return {1, int(steps)};
    const int64_t each = ((steps + splits - 1) / splits + Tile::steps - 1) / Tile::steps * Tile::steps;
    return {int((steps + each - 1) / each), int(each)};
}

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const WgradArgs& args, void* workspace, simt::Stream stream) {
    using Acc = Accumulator<T>;
    constexpr int vector = Tile::vector;
    WgradParameters<T> d;
    d.conv = Geometry(problem.conv);
    const Geometry& conv = d.conv;
    d.x.view = {static_cast<const T*>(args.x.data), conv.H, conv.W};
    d.gradient.view = GradientView<T>(problem, args.dy, args.code);
    d.partial = static_cast<Acc*>(workspace);
    d.x_strides = Strides(args.x), d.dy_strides = Strides(args.dy);
    d.pixels = Pixels(conv.P, conv.Q);
    d.taps = Taps(conv.channels, conv.R, conv.S, channels_last(args.x) || channels_last(args.dw));
    d.weight_rows = args.dw.data ? conv.channels * conv.R * conv.S : 0;
    d.rows = d.weight_rows + (args.dbias.data ? 1 : 0);
    d.steps = conv.N * conv.P * conv.Q;
    const Split split = split_of<Tile>(conv);
    d.steps_per_split = split.steps_per_split;
    d.row_tiles = ceil_div(d.rows, Tile::rows);
    d.column_tiles = ceil_div(conv.filters, Tile::columns);
    d.x.lanes = !channels_last(args.x)                                      ? Lanes::steps
                : channel_vectors(args.x, conv.channels, vector, sizeof(T)) ? Lanes::line_vectors
                                                                            : Lanes::lines;
    d.gradient.lanes = !channels_last(args.dy) ? Lanes::steps
                       : gradient_vectors(problem, args.dy, args.code, conv.filters, vector, sizeof(T))
                           ? Lanes::line_vectors
                           : Lanes::lines;

    if constexpr (Tile::tensor_cores) {
        const auto walk = [&](const Site& one_n, const Site& one_p, const Site& one_q, int lines) {
            return Walk({conv.Q, one_q}, {conv.P, one_p}, {conv.N, one_n}, Tile::steps, Tile::hop(lines));
        };
        const int h = conv.stride_h, w = conv.stride_w;
        d.x_walk = walk({d.x_strides.n, 0, 0, 0, 0}, {d.x_strides.h * h, h, 0, 0, 0}, {d.x_strides.w * w, 0, w, 0, 0},
                        Tile::rows);
        d.gradient_walk = walk({d.dy_strides.n, 0, 0, 1, 0}, {d.dy_strides.h, 1, 0, 0, 0}, {d.dy_strides.w, 0, 1, 0, 0},
                               Tile::columns);
    }

    WgradSumParameters<T> sum;
    sum.partial = d.partial;
    sum.dw = static_cast<T*>(args.dw.data), sum.dbias = static_cast<T*>(args.dbias.data);
    sum.strides = Strides(args.dw);
    sum.dbias_stride = args.dbias.stride[0];
    sum.rows = Divider(d.rows);
    sum.taps = d.taps;
    sum.weight_rows = d.weight_rows;
    sum.splits = split.splits;
    const int64_t count = int64_t(conv.K) * d.rows;
    const int64_t tiles = int64_t(d.row_tiles) * d.column_tiles * conv.groups;
    const std::string refused =
        refuse({{"the number of weights", count}, {"the number of tiles", tiles}}, most_counted);
    if (!refused.empty()) return refused;
    sum.count = int(count);
    const std::string too_many = refuse({{"the number of blocks", tiles * split.splits}}, most_counted);
    if (!too_many.empty()) return too_many;
    const std::string error = simt::launch(conv2d_wgrad_kernel<T, Tile>, {int(tiles * split.splits)}, Tile::threads,
                                           shared_bytes<WgradMemory<Tile>>(), stream, d);
    if (!error.empty()) return error;
    return simt::launch(conv2d_wgrad_sum_kernel<T>, {ceil_div(sum.count, 32)}, wgrad_sum_threads,
                        shared_bytes<WgradSumMemory<T>>(), stream, sum);
}

}  // namespace

size_t conv2d_wgrad_workspace(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    if (c.K == 0 || !refuse(problem).empty()) return 0;
    const Geometry conv(c);
    size_t bytes = 0;
    with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        using Acc = Accumulator<T>;
        const auto splits_of = [&](auto tile) { return split_of<decltype(tile)>(conv).splits; };
        const int exact = with_exact_tile<Acc>(conv.filters, splits_of);
        const int fast = with_tile<T>(problem.tf32, conv.filters, splits_of);  // whatever the memory formats will be
        bytes = size_t(exact > fast ? exact : fast) * size_t(conv.K) *
                (size_t(conv.channels) * size_t(conv.R) * size_t(conv.S) + 1) * sizeof(Acc);
        return std::string();
    });
    return bytes;
}

std::string conv2d_wgrad(const Conv2dProblem& problem, const WgradArgs& args, void* workspace, simt::Stream stream) {
    const std::string refused = refuse(problem);
    if (!refused.empty()) return refused;
    const Conv2d& conv = problem.conv;
    const bool weights = args.dw.data && conv.C * conv.R * conv.S > 0;
    if (conv.K == 0 || (!weights && !args.dbias.data)) return "";
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        const auto run_with = [&](auto tile) { return run<T, decltype(tile)>(problem, args, workspace, stream); };
        const int filters = int(conv.K / conv.groups), channels = int(conv.C / conv.groups);
        constexpr int vector = 16 / int(sizeof(T));
        if (channel_vectors(args.x, channels, vector, sizeof(T)) &&
            gradient_vectors(problem, args.dy, args.code, filters, vector, sizeof(T)))
            return with_tile<T>(problem.tf32, filters, run_with);
        return with_exact_tile<Accumulator<T>>(filters, run_with);
    });
}

}  // namespace fastconv::cuda
