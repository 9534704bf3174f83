#include "conv2d_few_channels_fprop.cuh"

#include <optional>

#include "conv2d_few_channels.h"
#include "conv2d_fprop.h"

namespace fastconv::cuda {

namespace {

template <class Memory>
int bytes_of(const FewChannelsLayout& layout) {
    simt::Shared shared;
    Memory(shared, layout.steps);
    return shared.bytes();
}

// Nothing where the filters are too long, or the halo of any rectangle is longer than the sums that later lie there.
template <class T, class Tile>
std::optional<FewChannelsLayout> layout_of(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    const int64_t taps_of_s = ceil_div(c.C * c.R, 4) * 4, steps = ceil_div(c.S * taps_of_s, 2 * Tile::vector);
    if (steps * Tile::columns * 32 > few_channels_most_bytes) return {};
    FewChannelsLayout layout;
    layout.steps = int(steps);
    layout.taps_of_s = Divider(int(taps_of_s)), layout.taps_of_c = Divider(int(c.R));
    const int bytes = problem.epilogue == Epilogue::relu_max_pool ? bytes_of<FewChannelsFpropPoolMemory<Tile>>(layout)
                                                                  : bytes_of<FewChannelsFpropMemory<Tile>>(layout);
    if (bytes > few_channels_most_bytes || !cut(layout, c, problem.pool, Tile::rows, Tile::buffer * 4, sizeof(T), 8))
        return {};
    // Multiprocessors stay busy; beyond that, filters are brought less often.
    const int64_t blocks = layout.rectangles * ceil_div(c.K, Tile::columns);
    layout.rectangles_per_block = least(int(blocks / (4 * multiprocessors * Tile::blocks)), 7) + 1;
    return layout;
}

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    const FewChannelsLayout layout = *layout_of<T, Tile>(problem);
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    const int64_t blocks = int64_t(in.column_tiles) * ceil_div(layout.rectangles, layout.rectangles_per_block);
    const std::string refused = refuse({{"the number of blocks", blocks}}, most_counted);
    if (!refused.empty()) return refused;
    if (problem.epilogue != Epilogue::relu_max_pool)
        return simt::launch(conv2d_few_channels_fprop_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                            bytes_of<FewChannelsFpropMemory<Tile>>(layout), stream, in,
                            fprop_output<T, Tile>(problem, args), layout);
    const FpropPoolOutput<T> out{pool_output<T>(problem, args, 2), layout.tiling, layout.width,
                                 Divider(layout.tiling.pooled_w)};
    return simt::launch(conv2d_few_channels_fprop_pool_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                        bytes_of<FewChannelsFpropPoolMemory<Tile>>(layout), stream, in, out, layout);
}

}  // namespace

bool few_channels_fprop_takes(const Conv2dProblem& problem) {
    bool takes = false;
    with_few_channels_tile<FewChannelsTiles>(problem, [&](auto tile) {
        takes = layout_of<typename decltype(tile)::T, decltype(tile)>(problem).has_value();
        return std::string();
    });
    return takes;
}

std::string conv2d_few_channels_fprop(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    return with_few_channels_tile<FewChannelsTiles>(
        problem, [&](auto tile) { return run<typename decltype(tile)::T, decltype(tile)>(problem, args, stream); });
}

}  // namespace fastconv::cuda
