// What the kernels of wgrad share on the host: their rows, and the second kernel, which adds the splits up.
// conv2d_wgrad.cu chooses; conv2d_first_wgrad.cu and conv2d_wgrad_sum.cu compile one kernel each.
#pragma once

#include "conv2d_launch.h"

namespace fastconv::cuda {

// Sums of a filter: its taps and, if dbias is wanted, that of the bias behind them.
struct WgradRows {
    Taps taps;
    int weights, all;

    WgradRows(const Geometry& conv, const WgradArgs& args)
        : taps(conv.channels, conv.R, conv.S, channels_last(args.x) || channels_last(args.dw)),
          weights(args.dw.data ? conv.channels * conv.R * conv.S : 0),
          all(weights + (args.dbias.data ? 1 : 0)) {}
};

// "" or why so many sums or blocks are refused; tiles: blocks of one split.
inline std::string refuse_wgrad(const Geometry& conv, const WgradRows& rows, int64_t tiles, int splits) {
    const std::string refused =
        refuse({{"the number of weights", int64_t(conv.K) * rows.all}, {"the number of tiles", tiles}}, most_counted);
    return refused.empty() ? refuse({{"the number of blocks", tiles * splits}}, most_counted) : refused;
}

// Adds the splits' sums up, [split][k][row], and writes dw and dbias.
std::string conv2d_wgrad_sum(const Conv2dProblem&, const WgradArgs&, const void* partial, int splits,
                             simt::Stream stream);

// conv2d_first_wgrad.cuh; it is the default where it takes the problem. The splits that it makes, 0 where it does not.
int first_wgrad_splits(const Conv2dProblem&);
std::string conv2d_first_wgrad(const Conv2dProblem&, const WgradArgs&, void* workspace, simt::Stream stream);

}  // namespace fastconv::cuda
