// What the kernels of wgrad share on the host: how sums are cut into splits, and the second kernel, which adds the
// splits up. conv2d_wgrad.cu, conv2d_few_channels_wgrad.cu, conv2d_wgrad_pool2x2.cu and conv2d_wgrad_sum.cu compile one
// kernel each.
#pragma once

#include "conv2d_launch.h"
#include "cycles.h"

namespace fastconv::cuda {

// How the steps of the sums are cut.
struct Split {
    int splits, steps_per_split;
};

// Of one split: blocks and sums, those of the bias too, wanted or not. A tile has that many taps and filters.
struct WgradSize {
    int64_t tiles, sums, steps;

    WgradSize(const Geometry& conv, int taps_of_tile, int filters_of_tile, int64_t steps) : steps(steps) {
        const int64_t rows = int64_t(conv.channels) * conv.R * conv.S + 1;
        tiles = ceil_div(rows, taps_of_tile) * ceil_div(conv.filters, filters_of_tile) * conv.groups;
        sums = rows * conv.K;
    }
};

template <class Tile>
Split split_in(const WgradSize& size, int64_t splits) {
    if (splits < 2) return {1, int(size.steps)};
    const int64_t each = ceil_div(ceil_div(size.steps, splits), Tile::steps) * Tile::steps;
    return {int(ceil_div(size.steps, each)), int(each)};
}

// The second pass reads what the splits have written.
template <class Tile>
Work work_of(const WgradSize& size, const Split& split, bool vectors) {
    return {size.tiles * split.splits, double(split.steps_per_split), vectors,
            2.0 * double(size.sums) * split.splits * sizeof(typename Tile::Acc)};
}

// By the geometry alone: as many splits as run at once, or a part of them where that costs less.
template <class Tile>
Split split_of(const WgradSize& size) {
    constexpr int64_t least_steps = 128;
    int64_t splits = ceil_div(int64_t(multiprocessors) * Tile::fewer_blocks, size.tiles);
    if (splits > size.steps / least_steps) splits = size.steps / least_steps;
    Split best = split_in<Tile>(size, splits);
    double fewest = cycles_of<Tile>(work_of<Tile>(size, best, true));
    for (splits = splits * 3 / 4; splits > 0; splits = splits * 3 / 4) {
        const Split split = split_in<Tile>(size, splits);
        const double cycles = cycles_of<Tile>(work_of<Tile>(size, split, true));
        if (cycles < fewest) best = split, fewest = cycles;
    }
    return best;
}

// Sums of a filter: its taps and, if dbias is wanted, that of the bias behind them.
struct WgradRows {
    Taps taps;
    int weights, all;

    WgradRows(const Geometry& conv, const Layouts& layouts, const WgradArgs& args)
        : taps(conv.channels, conv.R, conv.S, layouts.x.channels_inside || layouts.w.channels_inside),
          weights(args.dw.data ? conv.channels * conv.R * conv.S : 0),
          all(weights + (args.dbias.data ? 1 : 0)) {}
};

// "" or why so many sums or blocks are refused; tiles: blocks of one split.
inline std::string refuse_wgrad(const Geometry& conv, const WgradRows& rows, int64_t tiles, int splits) {
    const std::string refused =
        refuse({{"the number of weights", int64_t(conv.K) * rows.all}, {"the number of tiles", tiles}}, most_counted);
    return refused.empty() ? refuse({{"the number of blocks", tiles * splits}}, most_counted) : refused;
}

// Bytes of the splits' sums, those of the bias too, wanted or not.
inline size_t wgrad_workspace(const Conv2dProblem& problem, int splits) {
    const Conv2d& c = problem.conv;
    const size_t bytes = problem.dtype == DType::float64 ? sizeof(double) : sizeof(float);
    return size_t(splits) * size_t(c.K) * (size_t(c.C / c.groups) * size_t(c.R) * size_t(c.S) + 1) * bytes;
}

// Adds the splits' sums up, [split][k][row], and writes dw and dbias.
void conv2d_wgrad_sum(const Conv2dProblem&, const WgradArgs&, const Launch&, int splits);

}  // namespace fastconv::cuda
