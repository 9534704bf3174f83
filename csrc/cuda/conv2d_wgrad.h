// Host code that the launchers of wgrad share: the split of the reduction, the workspace, and the second kernel, which
// adds the splits up.
#pragma once

#include "conv2d_launch.h"
#include "cycles.h"

namespace fastconv::cuda {

// Split is the division of the reduction's steps over blocks.
struct Split {
    int splits, steps_per_split;
};

// WgradSize is the size of one split in blocks and sums. A tile is taps_of_tile x filters_of_tile. The bias always
// counts, so dbias does not change the split.
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

// The second pass reads the sums that the splits have written.
template <class Tile>
Work work_of(const WgradSize& size, const Split& split, bool vectors) {
    return {size.tiles * split.splits, double(split.steps_per_split), vectors,
            2.0 * double(size.sums) * split.splits * sizeof(typename Tile::Acc)};
}

// Returns as many splits as run at once, or fewer where that costs less. It looks at the geometry alone.
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

// WgradRows counts the sums per filter: one per tap, then one for dbias if it is wanted.
struct WgradRows {
    Taps taps;
    int weights, all;

    WgradRows(const Geometry& conv, const Layouts& layouts, const WgradArgs& args)
        : taps(conv.channels, conv.R, conv.S, layouts.x.channels_inside || layouts.w.channels_inside),
          weights(args.dw.data ? conv.channels * conv.R * conv.S : 0),
          all(weights + (args.dbias.data ? 1 : 0)) {}
};

// Returns "" or the reason for refusing the number of sums or blocks. tiles: blocks of one split.
inline std::string refuse_wgrad(const Geometry& conv, const WgradRows& rows, int64_t tiles, int splits) {
    const std::string refused =
        refuse({{"the number of weights", int64_t(conv.K) * rows.all}, {"the number of tiles", tiles}}, most_counted);
    return refused.empty() ? refuse({{"the number of blocks", tiles * splits}}, most_counted) : refused;
}

// Bytes of the splits' sums. Those of the bias always count.
inline size_t wgrad_workspace(const Conv2dProblem& problem, int splits) {
    const Conv2d& c = problem.conv;
    const size_t bytes = problem.dtype == DType::float64 ? sizeof(double) : sizeof(float);
    return size_t(splits) * size_t(c.K) * (size_t(c.C / c.groups) * size_t(c.R) * size_t(c.S) + 1) * bytes;
}

// Adds the splits' sums up, [split][k][row], and writes dw and dbias.
void conv2d_wgrad_sum(const Conv2dProblem&, const WgradArgs&, const Launch&, int splits);

}  // namespace fastconv::cuda
