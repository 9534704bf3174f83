// The launcher of fprop for convolutions with few channels, such as a network's first layer.
#include "conv2d_few_channels_fprop.cuh"

#include <optional>

#include "conv2d_few_channels.h"
#include "conv2d_fprop.h"
#include "conv2d_implementations.h"

namespace fastconv::cuda {

namespace {

template <class Memory>
int bytes_of(const FewChannelsLayout& layout) {
    simt::Shared shared;
    Memory(shared, layout.steps);
    return shared.bytes();
}

// Returns nullopt if the filters do not fit shared memory, or if no rectangle's halo fits the accumulators' buffer.
template <class T, class Tile>
std::optional<FewChannelsLayout> layout_of(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    const int64_t taps_of_s = ceil_div(c.C * c.R, 4) * 4, steps = ceil_div(c.S * taps_of_s, 2 * Tile::vector);
    if (steps * Tile::columns * 32 > few_channels_most_bytes) return {};
    FewChannelsLayout layout;
    layout.steps = int(steps);
    layout.taps_of_s = Divider(int(taps_of_s)), layout.taps_of_c = Divider(int(c.R));
    const int bytes = problem.epilogue.pooled ? bytes_of<FewChannelsFpropPoolMemory<Tile>>(layout)
                                              : bytes_of<FewChannelsFpropMemory<Tile>>(layout);
    if (bytes > few_channels_most_bytes || !cut(layout, c, problem.pool, Tile::rows, Tile::buffer * 4, sizeof(T), 8))
        return {};
    // Few rectangles per block keep all multiprocessors busy. Many rectangles per block load the filters less often.
    const int64_t blocks = layout.rectangles * ceil_div(c.K, Tile::columns);
    layout.rectangles_per_block = least(int(blocks / (4 * multiprocessors * Tile::blocks)), 7) + 1;
    return layout;
}

template <class T, class Tile>
void launch_few_channels(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    const FewChannelsLayout layout = *layout_of<T, Tile>(problem);
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    const int64_t blocks = int64_t(in.column_tiles) * ceil_div(layout.rectangles, layout.rectangles_per_block);
    check(refuse({{"the number of blocks", blocks}}, most_counted));
    if (!problem.epilogue.pooled)
        return check(simt::launch(conv2d_few_channels_fprop_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                                  bytes_of<FewChannelsFpropMemory<Tile>>(layout), launch.stream, in,
                                  fprop_output<T, Tile>(problem, args), layout));
    const FpropPoolOutput<T> out{pool_output<T>(problem, args, 2), layout.tiling, layout.width,
                                 Divider(layout.tiling.pooled_w)};
    check(simt::launch(conv2d_few_channels_fprop_pool_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                       bytes_of<FewChannelsFpropPoolMemory<Tile>>(layout), launch.stream, in, out, layout));
}

bool takes(const Conv2dProblem& problem) {
    return has_output(problem) && with_few_channels_tile<FewChannelsTiles, bool>(problem, [&](auto tile) {
               return layout_of<typename decltype(tile)::T, decltype(tile)>(problem).has_value();
           });
}

size_t workspace(const Conv2dProblem&) { return 0; }

void run(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    with_few_channels_tile<FewChannelsTiles, void>(problem, [&](auto tile) {
        launch_few_channels<typename decltype(tile)::T, decltype(tile)>(problem, args, launch);
    });
}

}  // namespace

const Implementation<FpropArgs> few_channels_fprop = {"first", few_channels_condition, takes, workspace, nullptr, run};

}  // namespace fastconv::cuda
