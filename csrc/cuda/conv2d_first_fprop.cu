#include "conv2d_first_fprop.cuh"

#include "conv2d_first.h"
#include "conv2d_fprop.h"

namespace fastconv::cuda {

namespace {

template <class Memory>
int bytes_of(const FirstLayout& layout) {
    simt::Shared shared;
    Memory(shared, layout.steps);
    return shared.bytes();
}

template <class T, class Tile>
std::optional<FirstLayout> layout_of(const Conv2dProblem& problem) {
    return first_layout<T, Tile>(problem, problem.epilogue == Epilogue::relu_max_pool
                                              ? bytes_of<FirstFpropPoolMemory<Tile>>
                                              : bytes_of<FirstFpropMemory<Tile>>);
}

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    const FirstLayout layout = *layout_of<T, Tile>(problem);
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    const int64_t blocks = int64_t(in.column_tiles) * ceil_div(layout.rectangles, layout.turns);
    const std::string refused = refuse({{"the number of blocks", blocks}}, most_counted);
    if (!refused.empty()) return refused;
    if (problem.epilogue != Epilogue::relu_max_pool)
        return simt::launch(conv2d_first_fprop_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                            bytes_of<FirstFpropMemory<Tile>>(layout), stream, in, fprop_output<T, Tile>(problem, args),
                            layout);
    const FpropPoolOutput<T> out{pool_output<T>(problem, args), layout.tiling, layout.width,
                                 Divider(layout.tiling.pooled_w)};
    return simt::launch(conv2d_first_fprop_pool_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                        bytes_of<FirstFpropPoolMemory<Tile>>(layout), stream, in, out, layout);
}

}  // namespace

bool first_fprop_takes(const Conv2dProblem& problem) {
    bool takes = false;
    with_first_tile(problem, [&](auto tile) {
        takes = layout_of<typename decltype(tile)::T, decltype(tile)>(problem).has_value();
        return std::string();
    });
    return takes;
}

std::string conv2d_first_fprop(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    return with_first_tile(
        problem, [&](auto tile) { return run<typename decltype(tile)::T, decltype(tile)>(problem, args, stream); });
}

}  // namespace fastconv::cuda
