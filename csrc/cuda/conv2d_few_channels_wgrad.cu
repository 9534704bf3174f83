// The launcher of wgrad for convolutions with few channels, such as a network's first layer.
#include "conv2d_few_channels_wgrad.cuh"

#include <optional>

#include "conv2d_few_channels.h"
#include "conv2d_implementations.h"
#include "conv2d_wgrad.h"

namespace fastconv::cuda {

namespace {

struct Cut {
    FewChannelsLayout layout;
    int filled, bias_row, row_tiles, column_tiles, splits;
};

// Returns nullopt if no rectangle's halo fits beside its gradient. The cut depends on the problem alone, so it always
// has a row for dbias.
template <class T, class Tile>
std::optional<Cut> cut_of(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    Cut result;
    FewChannelsLayout& layout = result.layout;
    const int64_t taps_of_s = ceil_div(c.C * c.R, 8) * 8;
    const bool room = c.C * c.R < taps_of_s;  // for the bias
    if (c.S * taps_of_s > most_reached) return {};
    layout.taps_of_s = Divider(int(taps_of_s)), layout.taps_of_c = Divider(int(c.R));
    result.filled = int(c.S * taps_of_s) + (room ? 0 : 8);
    result.bias_row = room ? int(c.C * c.R) : int(c.S * taps_of_s);
    result.row_tiles = int(ceil_div(result.filled, Tile::rows)),
    result.column_tiles = int(ceil_div(c.K, Tile::columns));
    Pool2d pixels;
    pixels.P = c.P, pixels.Q = c.Q;
    const int most = Tile::buffer * 4 - few_channels_wgrad_pixels * Tile::columns * int(sizeof(T));
    if (!cut(layout, c, pixels, few_channels_wgrad_pixels, most, sizeof(T), 4)) return {};
    // The number of splits is the number that run at once. More splits would only add partial sums to write and read.
    const int64_t tiles = int64_t(result.row_tiles) * result.column_tiles;
    layout.rectangles_per_block =
        int(ceil_div(layout.rectangles, ceil_div(multiprocessors * few_channels_wgrad_blocks, tiles)));
    result.splits = int(ceil_div(layout.rectangles, layout.rectangles_per_block));
    return result;
}

template <class T, class Tile>
void launch_few_channels(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    const Cut cut = *cut_of<T, Tile>(problem);
    FewChannelsWgradParameters<T> d;
    d.conv = Geometry(problem.conv);
    const WgradRows rows(d.conv, problem.layouts, args);
    const int64_t tiles = int64_t(cut.row_tiles) * cut.column_tiles;
    check(refuse_wgrad(d.conv, rows, tiles, cut.splits));
    d.x = {static_cast<const T*>(args.x.data), d.conv.H, d.conv.W};
    d.gradient = GradientView<T>(problem, args.dy, args.code);
    d.partial = static_cast<float*>(launch.workspace);
    d.x_strides = Strides(args.x), d.dy_strides = Strides(args.dy);
    d.layout = cut.layout;
    d.taps = rows.taps, d.rows = Divider(rows.all), d.weight_rows = rows.weights;
    d.filled = cut.filled, d.bias_row = cut.bias_row;
    d.row_tiles = cut.row_tiles, d.column_tiles = cut.column_tiles;
    d.along_filters = problem.layouts.y.channels_inside;
    d.vectors = gradient_vectors<T>(problem, Tile::vector);
    check(simt::launch(conv2d_few_channels_wgrad_kernel<T, Tile>, {int(tiles * cut.splits)}, Tile::threads,
                       shared_bytes<FewChannelsWgradMemory<T, Tile>>(), launch.stream, d));
    conv2d_wgrad_sum(problem, args, launch, cut.splits);
}

// Returns 0 if there is no such cut.
int splits_of(const Conv2dProblem& problem) {
    return with_few_channels_tile<FewChannelsWgradTiles, int>(problem, [&](auto tile) {
        const auto cut = cut_of<typename decltype(tile)::T, decltype(tile)>(problem);
        return cut ? cut->splits : 0;
    });
}

bool takes(const Conv2dProblem& problem) { return splits_of(problem) > 0; }

size_t workspace(const Conv2dProblem& problem) { return wgrad_workspace(problem, splits_of(problem)); }

void run(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    if (!args.dw.data && !args.dbias.data) return;
    with_few_channels_tile<FewChannelsWgradTiles, void>(problem, [&](auto tile) {
        launch_few_channels<typename decltype(tile)::T, decltype(tile)>(problem, args, launch);
    });
}

}  // namespace

const Implementation<WgradArgs> few_channels_wgrad = {"first", few_channels_condition, takes, workspace, nullptr, run};

}  // namespace fastconv::cuda
