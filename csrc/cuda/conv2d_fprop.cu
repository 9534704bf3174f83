#include "conv2d_fprop.h"

namespace fastconv::cuda {

namespace {

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    const FpropOutput<T> out = fprop_output<T, Tile>(problem, args);
    const int width = out.code ? ceil_div(in.conv.Q, 8) * 8 : in.conv.Q;
    const Pixels pixels(in.conv.P, width);
    const int row_tiles = ceil_div(in.conv.N * in.conv.P * width, Tile::rows);
    const int64_t blocks = int64_t(in.column_tiles) * row_tiles * in.conv.groups;
    const std::string refused = refuse({{"the number of blocks", blocks}}, most_counted);
    if (!refused.empty()) return refused;
    return simt::launch(conv2d_fprop_kernel<T, Tile>, {int(blocks)}, Tile::threads, shared_bytes<GemmMemory<Tile>>(),
                        stream, in, out, pixels, row_tiles);
}

}  // namespace

std::vector<std::string> conv2d_fprop_variants(const Conv2dProblem& problem) {
    auto names = tile_names(problem, [&](auto tile) { return fprop_work<decltype(tile)>(problem, true); });
    if (few_channels_fprop_takes(problem)) names.insert(names.begin(), std::string(few_channels_variant));
    return names;
}

size_t conv2d_fprop_workspace(const Conv2dProblem&) { return 0; }

std::string conv2d_fprop(const Conv2dProblem& problem, const FpropArgs& args, void*, simt::Stream stream) {
    const std::string refused = refuse(problem);
    if (!refused.empty()) return refused;
    const Conv2d& conv = problem.conv;
    if (conv.N * conv.K * problem.pool.P * problem.pool.Q == 0) return "";
    if ((!*problem.variant || problem.variant == few_channels_variant) && few_channels_fprop_takes(problem))
        return conv2d_few_channels_fprop(problem, args, stream);
    if (problem.epilogue == Epilogue::relu_max_pool) return conv2d_fprop_pool(problem, args, stream);
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        const auto work_of = [&](auto tile) { return fprop_work<decltype(tile)>(problem, channels_last(args.x)); };
        return with_tile<T>(problem, work_of, [&](auto tile) { return run<T, decltype(tile)>(problem, args, stream); });
    });
}

}  // namespace fastconv::cuda
