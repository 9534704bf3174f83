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
std::optional<std::string> run(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    const bool pool = problem.epilogue == Epilogue::relu_max_pool;
    using Memory = FirstFpropMemory<Tile>;
    using PoolMemory = FirstFpropPoolMemory<Tile>;
    const auto layout = first_layout<T, Tile>(problem, pool ? bytes_of<PoolMemory> : bytes_of<Memory>);
    if (!layout) return {};
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    const int64_t blocks = int64_t(in.column_tiles) * ceil_div(layout->rectangles, layout->turns);
    const std::string refused = refuse({{"the number of blocks", blocks}}, most_counted);
    if (!refused.empty()) return refused;
    if (!pool)
        return simt::launch(conv2d_first_fprop_kernel<T, Tile>, {int(blocks)}, Tile::threads, bytes_of<Memory>(*layout),
                            stream, in, fprop_output<T, Tile>(problem, args), *layout);
    const FpropPoolOutput<T> out{pool_output<T>(problem, args), layout->tiling, layout->width,
                                 Divider(layout->tiling.pooled_w)};
    return simt::launch(conv2d_first_fprop_pool_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                        bytes_of<PoolMemory>(*layout), stream, in, out, *layout);
}

}  // namespace

std::optional<std::string> conv2d_first_fprop(const Conv2dProblem& problem, const FpropArgs& args,
                                              simt::Stream stream) {
    std::optional<std::string> result;
    with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        if constexpr (sizeof(T) <= 4) {
            if (first_layer<T>(problem))
                result = with_first_tile<T>(int(problem.conv.K),
                                            [&](auto tile) { return run<T, decltype(tile)>(problem, args, stream); });
        }
        return std::string();
    });
    return result;
}

}  // namespace fastconv::cuda
